"""Which actions are worth a look when they are used or refused, and how grave each is for one principal."""

from processor.core.catalogue import RISKS, Catalogue

PRIVILEGED = tuple(risk for risk in RISKS if risk not in ("data_access", "destructive"))
"""The classes whose first use is worth a look: they change who may do what, or hide it."""

LOUD = ("privilege_escalation", "defense_evasion")
"""The classes that are told even of a principal that is learning: an intruder makes new ones, and does not wait."""

GRAVITY = (*LOUD, *(risk for risk in PRIVILEGED if risk not in LOUD))

ESCALATION_PART = "escalation_part"
"""Of an action that raises privileges only in company, used by a principal that is not granted that company."""


def risky_mask(catalogue: Catalogue) -> int:
    """The actions that have a privileged class by themselves."""
    mask = 0
    for risk in PRIVILEGED:
        mask |= catalogue.risk_masks[risk]
    return mask


def privileged_mask(catalogue: Catalogue) -> int:
    """The actions that have a privileged class, or are part of a way to raise privileges."""
    mask = risky_mask(catalogue)
    for path in catalogue.paths:
        mask |= path.mask
    return mask


def gravest_risk(catalogue: Catalogue, action: int, granted: int | None) -> str:
    """The first class of GRAVITY that a privileged action has for one who holds `granted` (None: that is not known, and
    each path counts as held), or ESCALATION_PART."""
    bit = 1 << action
    for path in catalogue.paths:
        if path.mask & bit and (granted is None or granted & path.mask == path.mask):
            return GRAVITY[0]
    return next((risk for risk in GRAVITY if catalogue.risk_masks[risk] & bit), ESCALATION_PART)


def is_told(risk: str, quiet: str) -> bool:
    """Whether a first use is told at once: as the rule GapwatchPrivilegedFirstUse has it."""
    return (quiet == "no" and risk != ESCALATION_PART) or (quiet == "learning" and risk in LOUD)
