"""Small servers that speak OpenAI's chat completions: one with a real model behind it, one by script.

They run in a thread of this process, on a free port of this machine.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOP = 20


@dataclass
class Answered:
    """What a server sends: a status, headers, and a body that is JSON unless it is bytes."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Server:
    """A running server: its address, and what it was asked."""

    base_url: str
    asked: list[Asked]
    stopping: threading.Event

    @property
    def chats(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.endswith("/chat/completions")]


@contextlib.contextmanager
def serving(answer: Callable[[Asked, int], Answered]) -> Iterator[Server]:
    """A server that answers by a function of the request and how many came before it."""
    asked: list[Asked] = []
    stopping = threading.Event()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_words: object) -> None:
            pass

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            with lock:
                number = len(asked)
                one = Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                asked.append(one)
            answered = answer(one, number)
            content = answered.body
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            with contextlib.suppress(OSError):  # who asked may be gone
                self.send_response(answered.status)
                for name, value in ({"content-type": "application/json"} | answered.headers).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}/v1", asked, stopping)
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()


def completion(text: str | None, tokens: Any = None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """The body of a chat completion. `tokens`: (text, {text: log-prob}) a token; None for no log-probs."""
    logprobs = None
    if tokens is not None:
        content = []
        for said, likely in tokens:
            tops = [{"token": token, "logprob": logprob} for token, logprob in likely.items()]
            content.append({"token": said, "logprob": likely.get(said, -30.0), "top_logprobs": tops})
        logprobs = {"content": content}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text} | message,
        "finish_reason": finish,
        "logprobs": logprobs,
    }
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 9}}


class ChatModel:
    """Answers chat completions with a model of transformers: greedy or sampled, with log-probs.

    `continues`: goes on with a final message as vLLM does; else it knows nothing of that key."""

    def __init__(self, path: Path | str, continues: bool = True):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.continues = continues
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.lock = threading.Lock()
        self.end = self.tokenizer.eos_token_id

    def __call__(self, asked: Asked, _number: int) -> Answered:
        body = asked.body
        goes_on = self.continues and bool(body.get("continue_final_message"))
        prompt = self.tokenizer.apply_chat_template(
            body["messages"],
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
        ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        with self.lock:
            said, finish = self._greedy(ids, body["max_tokens"])
        text = self.tokenizer.decode([token for token, _ in said], skip_special_tokens=True)
        tokens = None
        if body.get("logprobs"):
            tokens = [(self.tokenizer.decode([token]), self._likely(row)) for token, row in said]
        answer = completion(text, None, finish)
        answer["usage"]["prompt_tokens"] = len(ids)
        if tokens is not None:
            content = []
            for (word, likely), (token, row) in zip(tokens, said, strict=True):
                tops = [{"token": name, "logprob": logprob} for name, logprob in likely]
                content.append({"token": word, "logprob": float(row[token]), "top_logprobs": tops})
            answer["choices"][0]["logprobs"] = {"content": content}
        return Answered(body=answer)

    def _greedy(self, ids: list[int], max_tokens: int) -> tuple[list[tuple[int, Any]], str]:
        import torch

        said: list[tuple[int, Any]] = []
        for _ in range(max_tokens):
            with torch.no_grad():
                logits = self.model(torch.tensor([[*ids, *(token for token, _ in said)]])).logits[0, -1]
            row = torch.log_softmax(logits.double(), -1)
            token = int(row.argmax())
            said.append((token, row))
            if token == self.end:
                return said, "stop"
        return said, "length"

    def _likely(self, row: Any) -> list[tuple[str, float]]:
        values, tokens = row.topk(TOP)
        pairs = zip(tokens.tolist(), values.tolist(), strict=True)
        return [(self.tokenizer.decode([token]), value) for token, value in pairs]
