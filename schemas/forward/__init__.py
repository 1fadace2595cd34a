"""The forward pass that engine and trainer share: several responses under one prompt in one row of tokens.

    layout      P P P A A A B B  Q Q Q C C D D D   two groups: prompt P with responses A, B; Q with C, D
    positions   0 1 2 3 4 5 3 4  0 1 2 3 4 3 4 5   a response follows its prompt, whatever stands between
    attention   a response sees its prompt and itself; it does not see its siblings or another group

A prompt is computed once for all its responses, and nothing is padded. The last token of a response is not
fed, because nothing is predicted from it. Only the positions that predict response tokens go through the
head, in chunks: logits of batch x length x vocabulary never exist. Where a judge is asked for a mark, the
prompt is what several questions begin with, and a response is the rest of one (an `Ending`): all marks are
read from its last token.

- `layout`: which token lies where, packed in one row or padded in many.
- `attention`: one call a segment (a prompt or a response); in half precision on a GPU one call for all.
- `logps`: the log-probs of the response tokens, from a decoder and a head.
- `load`: a model folder to a model that passed the self-test (`selftest`).
- `compiled`: what lies between the matrix products, compiled without changing a bit.
- `deterministic`: the same bits each time on a GPU.
- `moving`: what lies on the CPU to a device, in one copy.

The pass works with any decoder whose layers call transformers' attention interface. The self-test compares it
with the model's own forward; a model that differs is padded, which is slower and always right.

This package stands in schemas, which otherwise computes nothing, for one reason: cache and policy agree only
if both sides run one and the same pass, and engine and trainer do not import each other.
"""

from schemas.forward import without_torchao as without_torchao
