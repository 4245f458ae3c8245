"""Results of experiments as responses have them."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from gateway.api.schemas.pages import ResponseModel
from policies.experiments.comparison import Metric

_METRIC = (
    "sign_ups: accounts that came meanwhile; conversion: accounts with a first payment; usage: credits an account;"
    " revenue: money an account, by currency."
)


class ConfidenceInterval(ResponseModel):
    low: float
    high: float


class ExperimentEstimate(ResponseModel):
    metric: Metric = Field(description=_METRIC)
    currency: str | None = Field(description="Of revenue.")
    value: float = Field(description="sign_ups: the share of all; conversion: the share that paid; else a mean.")
    interval: ConfidenceInterval | None = Field(
        description="95 %: Wilson's of a share, Student's of a mean. null: of too few accounts."
    )


class VariantResult(ResponseModel):
    name: str
    accounts: int = Field(description="Those that had paid nothing before the start.")
    sign_ups: int
    paid: int = Field(description="Accounts that paid.")
    estimates: list[ExperimentEstimate]


class ExperimentComparison(ResponseModel):
    """A variant less the control."""

    variant: str
    metric: Metric = Field(description=_METRIC)
    currency: str | None = Field(description="Of revenue.")
    difference: float = Field(description="sign_ups: the share of both less the one that the weights expect.")
    interval: ConfidenceInterval | None = Field(
        description="95 %, of this comparison alone: Wilson's, Newcombe's (conversion) or Welch's (means)."
    )
    p_value: float | None = Field(
        description="Two-sided: z-tests of one share (sign_ups) and of two (conversion), Welch's t-test of means."
        " null: there is too little to test."
    )
    adjusted_p_value: float | None = Field(description="By Holm, over all comparisons of the report.")
    is_significant: bool = Field(description="`adjusted_p_value` is below 0.01.")


class ExperimentReport(ResponseModel):
    since: datetime | None = Field(description="The start; null before it.")
    until: datetime | None = Field(description="The end, or now while it runs.")
    variants: list[VariantResult] = Field(description="The control first.")
    comparisons: list[ExperimentComparison]
    finds_difference: bool = Field(
        description="Whether any comparison is significant: by chance in one of 100 reports on variants that are"
        " alike, where each is read once, at an end that was fixed before."
    )
