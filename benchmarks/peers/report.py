"""What was measured, as Markdown and as a chart: medians, and ratios within one run with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.peers.load import Sample

# Whom the others are compared with: the one that does the most like it, where it takes part.
_MEASURES = ("nginx + Lua, our work", "nginx + Lua + Redis", "nginx proxy_pass", "LiteLLM")


def markdown(samples: Mapping[str, Mapping[str, list[Sample]]], *, rounds: int, seconds: int, connections: int) -> None:
    print(f"{describe()}; wrk -t1 -c{connections} -d{seconds}s, medians of {rounds} interleaved rounds\n")
    for case, contenders in samples.items():
        measure = next((name for name in _MEASURES if name in contenders), next(iter(contenders)))
        print(f"### {case}\n")
        print(f"| | requests/s | p50 ms | p99 ms | CPU µs | CPU against {measure} (spread) | behind it, µs | MiB |")
        print("|---|---|---|---|---|---|---|---|")
        for name, measured in contenders.items():
            print(f"| {name} | {' | '.join(_cells(measured, contenders[measure]))} |")
        print()


def _cells(measured: list[Sample], measure: list[Sample]) -> list[str]:
    ratios = [one.cpu_us / base.cpu_us for one, base in zip(measured, measure, strict=True)]
    behind = {name: statistics.median(one.behind_us[name] for one in measured) for name in measured[0].behind_us}
    return [
        f"{_median(measured, 'requests_per_second'):,.0f}",
        f"{_median(measured, 'p50_ms'):.2f}",
        f"{_median(measured, 'p99_ms'):.2f}",
        f"{_median(measured, 'cpu_us'):.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        ", ".join(f"{name} {cost:.0f}" for name, cost in behind.items()) or "none",
        f"{_median(measured, 'resident_mib'):.0f}",
    ]


def chart(contenders: Mapping[str, list[Sample]], path: Path) -> None:
    """Bars of CPU per request, own and behind, as SVG."""
    rows = [(name, _median(measured, "cpu_us"), sum(_behind(measured))) for name, measured in contenders.items()]
    longest = max(own + behind for _, own, behind in rows)
    height, width, scale = 34, 720, 420 / longest
    box = f"0 0 {width} {height * len(rows) + 40}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif" font-size="13">',
        '<text x="8" y="18">CPU per request, µs: the gateway itself, and (lighter) the stores behind it</text>',
    ]
    for number, (name, own, behind) in enumerate(rows):
        y = 34 + number * height
        parts += [
            f'<text x="8" y="{y + 15}">{name}</text>',
            f'<rect x="190" y="{y}" width="{own * scale:.1f}" height="20" fill="#2f6f9f"/>',
            f'<rect x="{190 + own * scale:.1f}" y="{y}" width="{behind * scale:.1f}" height="20" fill="#a9c7dd"/>',
            f'<text x="{198 + (own + behind) * scale:.1f}" y="{y + 15}">{own:.0f}'
            + (f" + {behind:.0f}" if behind else "")
            + "</text>",
        ]
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _behind(measured: list[Sample]) -> list[float]:
    return [statistics.median(one.behind_us[name] for one in measured) for name in measured[0].behind_us]


def _median(measured: list[Sample], field: str) -> float:
    values: list[float] = [getattr(one, field) for one in measured]
    return statistics.median(values)
