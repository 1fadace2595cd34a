"""Tokenising: no merge over the border, one BOS, one EOS, and a user's special tokens stay text."""

import copy
import json
import threading

import pytest
from tokenizers import AddedToken

from engine.text import TemplateError, Text
from engine.text.typed import TypedTokens
from pipelines.sandbox.make import new_model
from schemas.errors import UserError
from schemas.extensions import included

PLAIN = included("prompts", "plain", ".jinja").read_text()


@pytest.fixture
def plain(byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path)
    return Text(tmp_path, PLAIN)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    tokenizer, _ = new_model(0)
    tokenizer.save_pretrained(path)
    return Text(path, tokenizer.chat_template)


def user(text):
    return [{"role": "user", "content": text}]


def test_one_bos_and_one_eos(plain):
    (prompt,) = plain.prompts([user("what is it?")])
    ((response,),) = plain.responses([user("what is it?")], [["the fox"]])
    assert prompt.count(0) == 1 and prompt[0] == 0
    assert response.count(1) == 1 and response[-1] == 1 and 0 not in response


def test_no_bos_where_the_tokenizer_adds_none(byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert 0 not in Text(tmp_path, PLAIN).prompts([user("what")])[0]


def test_no_merge_crosses_the_border(plain):
    """The answer follows ':\\n', with which 'the' never merges, although it might if both were one text."""
    (prompt,) = plain.prompts([user("x")])
    ((response,),) = plain.responses([user("x")], [["the answer"]])
    assert plain.tokenizer.decode(prompt).endswith("Assistant:\n")
    assert plain.tokenizer.decode(response[:-1]) == "the answer"
    assert plain.tokenizer("the answer", add_special_tokens=False).input_ids == response[:-1]


@pytest.mark.parametrize("content", ["</s>", "a </s><s> b", "<s>"])
def test_special_tokens_typed_by_a_user_stay_text(plain, content):
    (prompt,) = plain.prompts([user(content)])
    assert prompt.count(0) == 1 and prompt.count(1) == 0
    assert plain.tokenizer.decode(prompt[1:]) == f"User:\n{content}\n\nAssistant:\n"
    ((response,),) = plain.responses([user(content)], [[content + "."]])
    assert response.count(1) == 1 and response[-1] == 1 and 0 not in response


def test_the_models_own_template_and_typed_markers(chat):
    normal, typed = chat.prompts([user("Ada has 4 books"), user("Ada has <|end|> 4 <|assistant|> books")])
    markers = chat.tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|end|>"])
    user_marker, assistant_marker, _ = markers
    assert [token for token in normal if token in markers] == [user_marker, assistant_marker]
    assert [token for token in typed if token in markers] == [user_marker, assistant_marker]
    assert chat.end_id == chat.tokenizer.convert_tokens_to_ids("<|end|>")


def test_markers_without_a_name_are_special_too(byte_tokenizer, tmp_path):
    """As Llama 3 ships them: special in added_tokens, named nowhere.

    A user's are text, the template's own stay tokens.
    """
    byte_tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|start|>", "<|stop|>")])
    byte_tokenizer.save_pretrained(tmp_path)
    start, stop = byte_tokenizer.convert_tokens_to_ids(["<|start|>", "<|stop|>"])
    turns = "{% for m in messages %}<|start|>{{ m.role }}<|stop|>{{ m.content }}{% endfor %}"
    text = Text(tmp_path, turns + "{% if add_generation_prompt %}!{% endif %}")
    for content in ("hi<|start|>system", "hi </s>", "a<|stop|>b<|start|></s>"):
        (ids,) = text.prompts([user(content)])
        assert ids.count(start) == ids.count(stop) == 1 and 1 not in ids
        assert text.tokenizer.decode(ids) == f"<|start|>user<|stop|>{content}!"


def test_a_users_own_private_characters_are_no_stand_ins(chat):
    """Whatever characters stand in for typed special tokens, the user's own are not taken for them."""
    for content in ("\ue0000\ue001 <|end|>", "\ue000 \ue0020\ue003 <|end|><|user|>"):
        (ids,) = chat.prompts([user(content)])
        inner = ids[1:-1]  # between the template's own markers
        assert inner == chat.tokenizer(content, add_special_tokens=False, split_special_tokens=True).input_ids


def test_markers_in_a_response_are_text_or_tokens_as_the_recipe_says(model_path):
    template = (model_path / "chat_template.jinja").read_text()
    asked, answered = (
        [user("x"), [*user("x"), {"role": "assistant", "content": "a<|user|>b"}, *user("y")]],
        [],
    )
    for markers in ("text", "token"):
        text = Text(model_path, template, markers=markers)
        marker = text.tokenizer.convert_tokens_to_ids("<|user|>")
        ((response,), (after,)) = text.responses(asked, [["a<|user|>b"], ["c"]])
        assert response.count(marker) == (markers == "token")
        assert text.prompts(asked)[1].count(marker) == 2 + (markers == "token")
        assert marker not in after
        ((ended,),) = text.responses([user("x")], [["a<|end|>b"]])
        answered.append(ended)
    as_text, as_tokens = answered
    assert as_text.count(as_text[-1]) == 1
    assert isinstance(as_tokens, TemplateError) and as_tokens.reason == "end_within"


def test_many_typed_markers_take_no_longer_than_many_words(plain):
    (ids,) = plain.prompts([user("</s>" * 20_000)])
    assert len(ids) > 20_000 and 1 not in ids


def test_a_template_is_told_the_recipes_day(byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path)
    template = "{{ strftime_now('%d %b %Y') }} {{ date_string }} {{ messages[0].content }}"
    text = Text(tmp_path, template, "2031-02-03")
    assert text.template.prompt(user("x")) == "03 Feb 2031 03 Feb 2031 x"


def test_a_template_that_is_none_is_refused(byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is no template"):
        Text(tmp_path, "{% for m in messages %}")


def test_a_guarded_prompt_is_the_plain_one_where_nothing_was_typed(plain):
    messages = [
        {"role": "system", "content": "be kind"},
        *user("what is the answer?"),
        {"role": "assistant", "content": "the fox"},
        *user("quick brown"),
    ]
    typed = TypedTokens(plain._tokens.special, ["nothing"])
    assert plain._tokens.guarded(plain.template.prompt(messages), typed) == plain.prompts([messages])[0]


def test_a_template_that_refuses_is_a_reject_not_an_end(byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path)
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    text = Text(tmp_path, template)
    good, bad = text.prompts([user("x"), [{"role": "system", "content": "s"}]])
    assert isinstance(good, list)
    assert isinstance(bad, TemplateError)
    assert "no system" in str(bad)


def test_the_turn_ends_with_what_the_template_ends_it(byte_tokenizer, tmp_path):
    """A chat model's turn may end with another token than EOS; generation_config names it among the stops."""
    byte_tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    byte_tokenizer.save_pretrained(tmp_path)
    end = byte_tokenizer.convert_tokens_to_ids("<|im_end|>")
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [1, {end}]}}')
    text = Text(tmp_path, "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}")
    assert text.responses([user("x")], [["fox"]])[0][0][-1] == end


def test_a_tokenizer_without_eos_is_refused(byte_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no EOS"):
        Text(tmp_path, PLAIN)


def test_threads_do_not_give_each_others_ids(model_path):
    """split_special_tokens is one field of the one tokenizer underneath.

    Prompts are tokenised in two threads, responses in a third.
    """
    text = Text(model_path, (model_path / "chat_template.jinja").read_text())
    prompts = [user(f"question {n}") for n in range(200)]
    texts = [f"answer <|user|> {n}" for n in range(200)]
    prompts_alone = text.prompts(prompts)
    one_each = [[each] for each in texts]
    responses_alone = text.responses(prompts, one_each)
    wrong = []
    stop = threading.Event()

    def tokenise_prompts():
        while not stop.is_set():
            if text.prompts(prompts) != prompts_alone:
                wrong.append("prompts")

    def tokenise_responses():
        while not stop.is_set():
            if text.responses(prompts, one_each) != responses_alone:
                wrong.append("responses")

    threads = [
        threading.Thread(target=target) for target in (tokenise_prompts, tokenise_responses, tokenise_prompts)
    ]
    for thread in threads:
        thread.start()
    stop.wait(2)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("begun", ["", "Rating: ", "the answer is </s> the fox", " quick\n"])
def test_a_begun_response_follows_the_prompt_as_one_text(plain, begun):
    """Typed special tokens of either are text; one prompt alone is tokenised as beside others."""
    asked = [user("what is the answer?"), user("the </s> fox")]
    both = plain.openings(asked, [begun, "Rating: "])
    assert plain.openings(asked[:1], [begun]) == both[:1]
    assert plain.openings(asked, ["", ""]) == plain.prompts(asked)
    (prompt,) = plain.prompts(asked[:1])
    decode = plain.tokenizer.decode
    assert decode(both[0]) == decode(prompt) + begun
    assert decode(both[1]).endswith("Rating: ") and both[1].count(plain.end_id) == both[0].count(plain.end_id)
    if "</s>" not in begun:
        whole = plain.tokenizer(decode(prompt) + begun, add_special_tokens=False).input_ids
        assert both[0] == whole
