import inspect
import pickle

import pytest

from pipeline import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", CLASSES)
def test_error_survives_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("what went wrong")))
    assert type(error) is kind
    assert error.message == str(error) == "what went wrong"
    assert error.code == kind.code


def test_overloaded_keeps_its_hint():
    assert pickle.loads(pickle.dumps(errors.Overloaded("full", 2.5))).retry_after_s == 2.5


def test_codes_are_distinct_and_all_drawn_in_the_tree():
    codes = [c.code for c in CLASSES]
    assert len(set(codes)) == len(codes)
    for kind in CLASSES:
        assert kind.__name__ in (errors.__doc__ or "")
