<%
    after = [depends_on] if isinstance(depends_on, str) else depends_on or []
    names = ", ".join(f'"{name}"' for name in after)
%>\
"""${message}"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
from app.platform.data.revisions import existing_revisions

revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${f"existing_revisions(__file__, {names})" if names else None}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
