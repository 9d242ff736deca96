"""What the claims of this study have in common: they are the repository's own."""

from typing import Any

from lib.results.claims import OWN, Claim, Measure, claim_maker

_makers = {number: claim_maker(f"exp{number}", "this repository", kind=OWN) for number in (20, 21)}


def own(name: str, statement: str, measure: Measure, control: str, **fields: Any) -> Claim:
    """A claim of notebook 20."""
    return _makers[20](name, statement, measure, control, **fields)


def drafting(name: str, statement: str, measure: Measure, control: str, **fields: Any) -> Claim:
    """A claim of notebook 21."""
    return _makers[21](name, statement, measure, control, **fields)
