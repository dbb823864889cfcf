"""The pages of one run, in the order of their tabs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tab:
    """One of them.

    Attributes
    ----------
    name
        What a page calls itself: ``{% set tab = "overview" %}``.
    title
        As shown.
    path
        Behind ``/ui/runs/{run_id}``.
    """

    name: str
    title: str
    path: str


TABS = (
    Tab("overview", "Overview", ""),
    Tab("map", "Data map", "/map"),
    Tab("classes", "Classes", "/classes"),
    Tab("samples", "Samples", "/samples"),
    Tab("compare", "Compare", "/compare"),
    Tab("downloads", "Downloads", "/downloads"),
)
