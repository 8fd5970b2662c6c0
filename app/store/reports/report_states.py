"""The states of a report, and the one table of how it may go from one to the next.

queued → approved → submitted → filed
aside: rejected · parked (with a cause) · retracted · filed_manually · dry_run
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a report is on its way."""

    QUEUED = "queued"
    """It waits for a custodian's decision; only such a report is joined by later sightings."""
    APPROVED = "approved"
    SUBMITTED = "submitted"
    FILED = "filed"
    REJECTED = "rejected"
    PARKED = "parked"
    """A person must look at it; the cause says why."""
    RETRACTED = "retracted"
    """The authority had opened it, and withdrew it as a custodian wanted: it was never filed."""
    FILED_MANUALLY = "filed_manually"
    DRY_RUN = "dry_run"
    """It went to the double or to a test host, which is no filing."""


# What a custodian decided wrongly can be decided again; what the authority has is never taken for unfiled,
# even where its answer comes when somebody decided otherwise.
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.APPROVED, State.REJECTED, State.PARKED, State.FILED_MANUALLY}),
    State.APPROVED: frozenset(
        {State.SUBMITTED, State.PARKED, State.REJECTED, State.FILED, State.FILED_MANUALLY, State.DRY_RUN}
    ),
    State.SUBMITTED: frozenset(
        {
            State.FILED,
            State.PARKED,
            State.RETRACTED,
            State.DRY_RUN,
            State.APPROVED,
            State.REJECTED,
            State.FILED_MANUALLY,
        }
    ),
    State.PARKED: frozenset(
        {
            State.QUEUED,
            State.APPROVED,
            State.SUBMITTED,
            State.FILED,
            State.REJECTED,
            State.RETRACTED,
            State.FILED_MANUALLY,
            State.DRY_RUN,
        }
    ),
    State.RETRACTED: frozenset(
        {State.APPROVED, State.REJECTED, State.FILED_MANUALLY, State.FILED, State.DRY_RUN}
    ),
    State.DRY_RUN: frozenset({State.APPROVED, State.REJECTED, State.FILED_MANUALLY}),
    State.REJECTED: frozenset(
        {State.APPROVED, State.FILED_MANUALLY, State.RETRACTED, State.FILED, State.DRY_RUN}
    ),
    State.FILED: frozenset(),
    State.FILED_MANUALLY: frozenset(),
}

DECIDED: Final = frozenset({State.APPROVED, State.REJECTED, State.FILED_MANUALLY})
"""Coming to these is a decision, mostly a person's, which retention counts from where there is no receipt."""

ENDED: Final = frozenset({State.FILED, State.FILED_MANUALLY, State.REJECTED, State.RETRACTED, State.DRY_RUN})
"""Nobody is waited for any more in these: time removes such reports, and no others."""
