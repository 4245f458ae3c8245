"""Which invoices are paid by payments that an operator records. The table is new."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
serves_from = "0016"
is_needed = True

_CREATE = (
    """
    CREATE TABLE payment_allocations (
        payment_id UUID NOT NULL,
        invoice_id UUID NOT NULL,
        amount NUMERIC NOT NULL,
        created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
        CONSTRAINT pk_payment_allocations PRIMARY KEY (payment_id, invoice_id),
        CONSTRAINT ck_payment_allocations_amount_positive CHECK (amount > 0),
        CONSTRAINT fk_payment_allocations_payment_id
            FOREIGN KEY (payment_id) REFERENCES payment_transactions (id) ON DELETE RESTRICT,
        CONSTRAINT fk_payment_allocations_invoice_id
            FOREIGN KEY (invoice_id) REFERENCES invoices (id) ON DELETE RESTRICT
    )
    """,
    "CREATE INDEX ix_payment_allocations_invoice_id ON payment_allocations (invoice_id)",
    """
    COMMENT ON TABLE payment_allocations IS
        'Which invoices a payment pays that an operator recorded, and how much of each'
    """,
)


def upgrade() -> None:
    for statement in _CREATE:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.drop_table("payment_allocations")
