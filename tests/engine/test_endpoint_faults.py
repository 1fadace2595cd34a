"""What a server refuses is told apart: its own failure, a key that it spells otherwise, a bad row."""

import pytest

from engine.endpoint import breaker
from engine.endpoint.breaker import Breaker
from engine.endpoint.client import look
from engine.endpoint.dialect import Dialect, advice
from engine.endpoint.disguise import has_no_money, status_within
from engine.endpoint.rewriter import Written, foreign_keys, write
from engine.endpoint.spec import endpoint_of
from engine.rejects import Reject
from engine.stages import judge
from schemas.errors import UserError
from schemas.sections import Judge, Rewrite
from tests.engine.test_endpoint import asked, good, responses
from tests.serving import Answered, completion, serving


def said(message: str, status: int = 400, **error) -> Answered:
    return Answered(status, {"error": {"message": message} | error})


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 502),
        (b"<html>maintenance</html>", 502),
        (b'{"error": {"message": "Provider returned error", "code": 502}}', 502),
        (b'{"error": {"message": "no key", "code": 401}}', 401),
        (b'{"error": {"message": "slow down", "code": "429"}, "choices": []}', 429),
        (b'{"error": {"message": "empty", "code": "insufficient_quota"}}', 429),
        (b'{"error": "overloaded"}', 502),
        (
            b'{"choices": [{"finish_reason": "error", "error": {"code": 503}, "message": {"content": ""}}]}',
            503,
        ),
        (b'{"choices": []}', None),
        (b"{}", None),
        (b'{"error": null, "choices": [{"message": {"content": "4"}}]}', None),
    ],
)
def test_a_200_that_is_no_reply_has_the_status_that_it_means(content, status):
    assert status_within(content) == status
    assert has_no_money(content) == (b"quota" in content)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Answered(200, b"<html>maintenance</html>", {"content-type": "text/html"}), "maintenance"),
        (said("Provider returned error", 200, code=502), "Provider returned error"),
    ],
)
def test_a_failure_with_status_200_stops_after_all_tries(fault, says):
    with (
        serving(lambda one, number: fault if number > 4 else good()) as server,
        pytest.raises(UserError, match=says) as error,
    ):
        asked(server.base_url, rating_prompt="judge_rating_bare", retries=1)
    assert "tried up to 2 times" in str(error.value) and "same command" in str(error.value)


@pytest.mark.parametrize("status", [200, 429])
def test_an_empty_account_stops_at_once(status):
    fault = said("You exceeded your current quota", status, code="insufficient_quota")
    with serving(lambda one, number: fault) as server:
        with pytest.raises(UserError, match="exceeded your current quota"):
            asked(server.base_url, retries=9)
        assert len(server.chats) == 1


# Refusals one after another.


def breaker_of() -> Breaker:
    return Breaker(endpoint_of(Judge(base_url="http://host/v1", model="there")))


def test_many_refusals_in_a_row_stop_and_an_answer_between_them_does_not():
    counting = breaker_of()
    for number in range(60):
        counting.answered() if number % 19 == 0 else counting.refused("no")
    with pytest.raises(UserError, match="in a row, none answered between: 20"):
        for _ in range(20):
            counting.refused("account not active")


def test_what_is_too_long_is_the_rows_own_fault():
    counting = breaker_of()
    for _ in range(50):
        counting.refused("This model's maximum context length is 512 tokens")
    assert not counting.end()


def test_few_refused_of_few_are_rejects_and_more_stop():
    counting = breaker_of()
    for _ in range(breaker._FEW - 1):
        counting.refused("no")
    assert counting.end(), "a tiny question decides"
    counting.refused("account not active")
    with pytest.raises(UserError, match="account not active"):
        counting.end()


@pytest.mark.parametrize("is_active", [False, True])
def test_refusals_at_the_end_of_a_shard_are_the_servers_if_it_refuses_a_tiny_question_too(is_active):
    """After some answers only refusals come; the rows' fault it is where anything else is answered."""
    table = responses(4)
    late = table["text"].to_pylist()[-5:]

    def answer(one, number):
        question = str(one.body["messages"])
        refused = any(text in question for text in late)
        if refused or (not is_active and number > 6 and "Say yes." in question):
            return said("not for you")
        return good()

    with serving(answer) as server:
        keys = {"rating_prompt": "judge_rating_bare", "concurrency": 1}
        if is_active:
            made = asked(server.base_url, table, **keys)
            assert len(made.tables["rejects"]) == 5 and made.counts["scored"] == 3
        else:
            with pytest.raises(UserError, match="not for you"):
                asked(server.base_url, table, **keys)


# Keys that a server spells otherwise.


def wants(key: str, otherwise: Answered, answered):
    """A server that refuses a request with a key."""
    return lambda one, number: otherwise if key in one.body else answered


NEW_NAME = said("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.")


def test_a_server_that_wants_another_name_is_asked_by_it():
    with serving(wants("max_tokens", NEW_NAME, good())) as server:
        made = asked(server.base_url, rating_prompt="judge_rating_bare", concurrency=2)
        refused = [chat for chat in server.chats if "max_tokens" in chat.body]
        assert len(refused) == 1, "found out once"
    assert made.counts["scored"] == 6 and not len(made.tables["rejects"])


@pytest.mark.parametrize(
    "refusal",
    [
        "top_logprobs must be at most 5",
        "Requested sample logprobs of 20, which is greater than max allowed: 5",
    ],
)
def test_a_server_that_gives_fewer_of_the_likeliest_is_asked_for_five(refusal):
    def answer(one, number):
        return said(refusal) if one.body.get("top_logprobs", 0) > 5 else good()

    with serving(answer) as server:
        made = asked(server.base_url, rating_prompt="judge_rating_bare", concurrency=1)
        assert [chat.body["top_logprobs"] for chat in server.chats if "logprobs" in chat.body][:2] == [20, 5]
    assert made.counts["scored"] == 6


def rewriting(base_url: str, questions: int = 1, **keys) -> list[Written | Reject]:
    config = Rewrite(base_url=base_url, model="there", **keys)
    messages = [[{"role": "user", "content": f"rewrite {number}"}] for number in range(questions)]
    return write(endpoint_of(config), messages, [2**59 + number for number in range(questions)], config)


def test_a_rewriters_temperature_is_left_out_only_if_it_is_one():
    refusal = said(
        "Unsupported value: 'temperature' does not support this. Only the default (1) is supported."
    )
    with serving(wants("temperature", refusal, Answered(body=completion("new")))) as server:
        (written,) = rewriting(server.base_url, temperature=1.0)
        assert written.text == "new"
        with pytest.raises(UserError, match=r"rewrite\.temperature = 0\.3"):
            rewriting(server.base_url, temperature=0.3)


def test_a_seed_is_sent_only_where_something_is_drawn():
    with serving(lambda one, number: Answered(body=completion("new"))) as server:
        rewriting(server.base_url, temperature=0.0)
        rewriting(server.base_url, temperature=0.7)
        first, second = (chat.body for chat in server.chats)
    assert "seed" not in first and 0 <= second["seed"] < 2**31


# What is said.


@pytest.mark.parametrize(
    ("sent", "refusal", "key"),
    [
        ({"top_k": 7}, "Unrecognized request argument supplied: top_k", "rewrite.top_k"),
        ({"stop": ["x"]}, "'stop' takes four strings", "rewrite.stop"),
        ({"stop": ["x"]}, "we had to stop", ""),
        ({"max_completion_tokens": 9}, "max_completion_tokens is too large: 9", "rewrite.max_tokens"),
        ({"chat_template_kwargs": {}}, "unknown argument chat_template_kwargs", "rewrite.template_arguments"),
    ],
)
def test_a_refusal_names_the_recipes_key(sent, refusal, key):
    endpoint = endpoint_of(Rewrite(base_url="http://host/v1", model="there"))
    hint = advice(endpoint, sent, refusal)
    assert key in hint if key else not hint


def test_the_hint_at_log_probs_stands_only_where_they_are_spoken_of():
    for message, hints in [("You may not request logprobs", True), ("no such argument: user", False)]:
        with serving(lambda one, number, message=message: said(message)) as server:
            with pytest.raises(UserError, match=message) as error:
                asked(server.base_url)
            assert ("does it give them?" in str(error.value)) == hints


def test_a_model_that_may_not_give_log_probs_is_no_wrong_key():
    fault = said("You are not allowed to request logprobs from this model", 403)
    with (
        serving(lambda one, number: fault) as server,
        pytest.raises(UserError, match="ask a model that gives them") as error,
    ):
        asked(server.base_url)
    assert "api_key_env" not in str(error.value)


@pytest.mark.parametrize(
    "fault",
    [
        said("no such path", 404),
        Answered(500, b"oops"),
        Answered(200, b"<html></html>", {"content-type": "text/html"}),
    ],
)
def test_a_server_without_a_list_of_models_is_no_error(fault):
    with serving(lambda one, number: fault) as server:
        assert look(endpoint_of(Judge(base_url=server.base_url, model="there"))) is None


def test_keys_that_are_none_of_openais_are_named():
    config = Rewrite(
        base_url="http://host/v1", model="there", top_k=5, presence_penalty=0.5, bad_words=("x",)
    )
    assert foreign_keys(config) == ["top_k", "bad_words"]


def test_a_dialect_changes_nothing_until_a_refusal_speaks_of_it():
    body = {"messages": [], "max_tokens": 3, "temperature": 1.0, "top_logprobs": 20}
    dialect = Dialect()
    dialect.learn(endpoint_of(Judge(base_url="http://host/v1", model="there")), body, "too long")
    assert dialect.spelled(body) == body and judge.TOP_LOGPROBS == 20
