import numpy as np
import pytest

from mild_core import bitmap
from mild_core.audit import Audit, AuditChange
from mild_core.errors import BitmapLengthError, InvalidInput, SampleIndexError


def test_marks_and_bitmaps_say_the_same() -> None:
    audit = Audit.from_marks([9, 0, 4, 4], [True, False, True, True], 10)
    assert bitmap.to_indices(audit.checked, 10).tolist() == [0, 4, 9]
    assert bitmap.to_indices(audit.clean, 10).tolist() == [4, 9]
    assert (audit.n_checked, audit.n_clean) == (3, 2)
    assert [audit.get_mark(index) for index in (0, 1, 4, 9)] == [False, None, True, True]
    again = Audit.from_body(audit.to_body(), 10)
    assert again.to_body() == audit.to_body()
    known, clean = again.masks
    assert known.tolist() == [True, False, False, False, True, False, False, False, False, True]
    assert np.flatnonzero(clean).tolist() == [4, 9]


def test_the_newer_of_two_audits_is_right() -> None:
    older = Audit.from_marks([0, 1, 2], [True, False, True], 10)
    newer = Audit.from_marks([1, 2, 3], [True, True, False], 10)
    both = older.merge(newer)
    assert bitmap.to_indices(both.checked, 10).tolist() == [0, 1, 2, 3]
    assert bitmap.to_indices(both.clean, 10).tolist() == [0, 1, 2]
    assert older.count_contradictions(newer) == 1
    assert Audit.empty(10).merge(older).to_body() == older.to_body()
    assert Audit.empty(10).count_contradictions(older) == 0


def test_impossible_marks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 indices and 1 marks"):
        Audit.from_marks([0, 1], [True], 10)
    with pytest.raises(InvalidInput, match="marked both clean and mislabelled, the first is sample 3"):
        Audit.from_marks([3, 3], [True, False], 10)
    with pytest.raises(SampleIndexError, match=r"10 is outside 0\.\.9"):
        Audit.from_marks([10], [True], 10)


def test_impossible_bitmaps_are_refused() -> None:
    with pytest.raises(BitmapLengthError, match="takes 4 bytes"):
        Audit.from_body(b"\x80\x00", 10)
    with pytest.raises(InvalidInput, match="clean but not known, the first is sample 0"):
        Audit.from_body(b"\x40\x00\x80\x00", 10)


def test_marks_are_given_and_taken_back() -> None:
    marks = AuditChange.from_marks([9, 0, 4], [True, None, False], 10)
    assert bitmap.to_indices(marks.removed, 10).tolist() == [0]
    assert [marks.added.get_mark(index) for index in (0, 4, 9)] == [None, False, True]
    assert marks.n_changed == 3
    audit = Audit.from_marks([0, 1], [True, True], 10)
    assert audit.remove(marks.removed).to_body() == Audit.from_marks([1], [True], 10).to_body()
    assert AuditChange.from_audit(audit).n_changed == 2


def test_impossible_changes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 indices and 1 marks"):
        AuditChange.from_marks([0, 1], [None], 10)
    with pytest.raises(InvalidInput, match="1 samples are both given and taken back, the first is sample 3"):
        AuditChange.from_marks([3, 3], [True, None], 10)
    with pytest.raises(SampleIndexError, match=r"10 is outside 0\.\.9"):
        AuditChange.from_marks([10], [None], 10)
