import pytest

from nowag_exp.planning.render import about_bytes, about_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown time"),
        (0.0, "under 1 s"),
        (0.49, "under 1 s"),
        (0.9, "about 1 s"),
        (7.4, "about 7 s"),
        (14.4, "about 14 s"),
        (47.0, "about 50 s"),
        (89.0, "about 90 s"),
        (95.0, "about 1.6 min"),
        (1100.0, "about 18 min"),
        (10_300.0, "about 3 h"),
        (3 * 86400.0, "about 3 days"),
        (500 * 86400.0, "about 500 days"),
        (1500 * 86400.0, "about 4 years"),
    ],
)
def test_times_are_rounded_to_what_they_are_worth(seconds: float | None, text: str) -> None:
    assert about_seconds(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (13.48e9, "13 GB"), (137.95e9, "140 GB"), (2.04e12, "2 TB")],
)
def test_sizes_have_two_digits(n_bytes: float, text: str) -> None:
    assert about_bytes(n_bytes) == text
