"""Answers of broken and hostile servers: each is a `ServingError`. `tests/serving/hostile_answers.py` lists them."""

import hostile_answers
import pytest

from keras_arcface.serving import ServingError
from keras_arcface.serving.client.errors import UnexpectedResponse

CASES = [
    pytest.param(protocol, case, id=f"{protocol}-{case.call}-{number}")
    for protocol, cases in (("rest", hostile_answers.REST), ("grpc", hostile_answers.GRPC))
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize(("protocol", "case"), CASES)
def test_every_wrong_answer_is_a_serving_error(protocol, case):
    print(f"{protocol}, {case.call}, {case.name}: ", end="")
    if case.accepted:
        print(hostile_answers.call(case, protocol))
        return
    with pytest.raises(ServingError) as caught:
        hostile_answers.call(case, protocol)
    print(str(caught.value)[:300])
    hostile_answers.check_error(caught.value)


@pytest.mark.parametrize(("protocol", "cases"), [("rest", hostile_answers.REST), ("grpc", hostile_answers.GRPC)])
def test_answers_above_the_limit_are_unexpected(protocol, cases):
    (case,) = [case for case in cases if case.name == "long"]
    with pytest.raises(UnexpectedResponse) as caught:
        hostile_answers.call(case, protocol)
    print(caught.value)
