"""The model on vLLM: one engine a place, each in a process of its own that is watched.

    client       VLLM: turns both verbs into requests, hands them over and waits; the calls of several shards
                 may be under way at once
    supervisor   keeps an engine going while there are requests, and starts another where one dies
    process      an engine's process, its pipe and its last words
    messages     what goes through the pipe
    server       in the engine's process: feeds vLLM's scheduler as requests come and gives each answer back
                 as it is done; the only import of vllm
    settings     the engine's arguments and environment

An engine process can die or hang in the middle of a call, and vLLM's own client then waits for ever. So the
engine has a process group of its own and gives a sign of life every second and after each step. One that is
silent for `model.timeout`, or dead, is ended with its group; another is started and given what was not
finished. A request that was under way at three deaths is an error. An engine whose worker is gone ends itself
and its group.

Token ids in and out: the tokenizer stays on our side. Every sample has its own seed, so that on one kind of
machine it depends on its prompt and seed and not on what is beside it. This was measured on a CPU; on a GPU
kernels may differ by batch unless VLLM_BATCH_INVARIANT=1.
"""

from engine.models.vllm.client import VLLM

__all__ = ["VLLM"]
