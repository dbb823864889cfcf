"""How far a set repeats whom its round was trained on.

A network has learnt its members and not the others, so a selection tends to keep the ones and to drop the others,
whatever their labels. Agreement with the members says how far that goes, beside what two sets of these sizes would
share if they had nothing to do with each other. It is told and never acted upon: a set that is right settles too, and
the number is the same (docs/method.md).
"""

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.results import Echo


def echo(kept: Bitmap, members: Bitmap | None, judged: Bitmap) -> Echo | None:
    """Compare a set with its round's members, among the samples that were judged.

    Parameters
    ----------
    kept, members, judged
        Shape (n_bytes,) each; `members` None is everyone.

    Returns
    -------
    Echo | None
        None where all who were judged are members, or none of them is: there is nothing to repeat.
    """
    n_judged = bitmap.popcount(judged)
    n_members = n_judged if members is None else bitmap.popcount(members & judged)
    if members is None or n_members in (0, n_judged):
        return None
    of_members, of_kept = n_members / n_judged, bitmap.popcount(kept & judged) / n_judged
    return Echo(
        agreement=1 - bitmap.popcount((kept ^ members) & judged) / n_judged,
        by_chance=of_members * of_kept + (1 - of_members) * (1 - of_kept),
    )
