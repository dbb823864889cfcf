from benchmarks.fuzz import fuzz


def test_broken_requests_fail_nothing_and_change_nothing(store_url: str) -> None:
    found = fuzz(300, seed=1, store_url=store_url)
    assert found.failures == []
    assert found.changes == []
    refused = sum(count for status, count in found.statuses.items() if status >= 400)
    assert refused > 150  # what is sent is broken indeed
    assert any(200 <= status < 300 for status in found.statuses)  # and some of it changes something
