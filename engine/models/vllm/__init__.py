"""The model on vLLM: one engine a place, each in a process of its own that is watched.

    client       VLLM: turns both verbs into requests, hands them over and waits; the calls of several shards
                 may be under way at once
    supervisor   keeps an engine going while there are requests, and starts another where one dies
    process      an engine's process, its pipe and its last words
    messages     what goes through the pipe
    settings     the engine's arguments and environment
    fitting      requests that the engine's memory holds
    shared_memory  what of /dev/shm is the engine's, and is removed with it

In the engine's process (the first three are the only ones that import vllm):

    server       keeps vLLM's scheduler fed and gives each answer back as it is done
    loading      a loaded engine, as long as its memory holds
    params       requests in vLLM's words
    answers      vLLM's outputs as answers

An engine process can die or hang in the middle of a call, and vLLM's own client then waits for ever. So the
engine has a process group of its own and gives a sign of life every second and after each step. One that is
silent for `model.timeout`, or dead, is ended with its group; another is started and given what was not
finished. A request that was under way at three deaths is an error. An engine whose worker is gone ends itself
and its group.

vLLM's own engine process is off unless the environment says VLLM_ENABLE_V1_MULTIPROCESSING=1. It took 60 s to
start where the engine in one process took 27 s (2-core CPU, other work beside it), and whether it samples
faster did not show there: 0.45 to 3.6 times the tokens a second in six rounds. Where it or a worker of a
tensor-parallel engine dies, the whole engine ends and is replaced.

Token ids in and out: the tokenizer stays on our side. Every sample has its own seed, so that on one kind of
machine it depends on its prompt and seed and not on what is beside it. This was measured on a CPU; on a GPU
kernels may differ by batch unless VLLM_BATCH_INVARIANT=1 (pipelines/docs/making.md).
"""

from engine.models.vllm.client import VLLM

__all__ = ["VLLM"]
