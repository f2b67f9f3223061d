"""What the actions of a gap weigh: risk classes and the gap index."""

import numpy as np
from numpy.typing import NDArray

from processor.core.catalogue import RISKS, Catalogue, ids_in
from processor.core.gap import Verdicts

RISK_WEIGHTS = {
    "privilege_escalation": 50,
    "permissions_management": 20,
    "credentials_exposure": 20,
    "resource_exposure": 20,
    "defense_evasion": 20,
    "data_access": 10,
    "destructive": 10,
}
"""What a class adds to an action's weight of 1 in the gap index: an unused way to become administrator weighs as much as
fifty harmless reads."""


def weigh(catalogue: Catalogue, mask: int, escalation: int) -> int:
    """The weight of a set of actions: 1 each, and more for each of its risk classes."""
    weight = mask.bit_count() + RISK_WEIGHTS[RISKS[0]] * (mask & escalation).bit_count()
    for risk in RISKS[1:]:
        weight += RISK_WEIGHTS[risk] * (mask & catalogue.risk_masks[risk]).bit_count()
    return weight


def gap_index(catalogue: Catalogue, verdicts: Verdicts, granted: int, escalation: int) -> float:
    """0 exactly when nothing is unused, up to 100 when all that can be observed is: the unused share of the weight."""
    if not verdicts.unused:
        return 0.0
    whole = weigh(catalogue, granted & ~verdicts.unobservable, escalation)
    return share(weigh(catalogue, verdicts.unused, escalation), whole)


def share(unused: int, whole: int) -> float:
    """The gap index of weights."""
    return max(0.1, round(100 * unused / whole, 1)) if unused else 0.0


def weigh_each(catalogue: Catalogue) -> NDArray[np.int64]:
    """What each action of a catalogue weighs for one whom it does not escalate."""
    weights = np.ones(catalogue.size, np.int64)
    for risk in RISKS[1:]:
        weights[list(ids_in(catalogue.risk_masks[risk]))] += RISK_WEIGHTS[risk]
    return weights


def count_risks(catalogue: Catalogue, mask: int, escalation: int) -> dict[str, int]:
    """How many actions of a set each risk class has; classes without one are left out."""
    counts = {RISKS[0]: (mask & escalation).bit_count()}
    for risk in RISKS[1:]:
        counts[risk] = (mask & catalogue.risk_masks[risk]).bit_count()
    return {risk: count for risk, count in counts.items() if count}
