-- format: hh-rlhf dialogues: chosen and rejected are whole dialogues whose turns are marked "\n\nHuman:" and "\n\nAssistant:"
-- reads: chosen, rejected
with sides as (
    select n, row, e'\n\n' || ltrim(text_at(row, '$.chosen'), e'\n') as c, e'\n\n' || ltrim(text_at(row, '$.rejected'), e'\n') as r from raw
), turns as (
    select n, row, c, r, hh_turns(c) as ct, hh_turns(r) as rt from sides
)
select n,
       ct[:-2] as messages,
       [{text: ct[-1].content, score: 1.0}, {text: rt[-1].content, score: 0.0}] as responses,
       coalesce(text_problem(row, 'chosen'), text_problem(row, 'rejected'), case
           when not (regexp_matches(c, '^\n\n(Human|Assistant):') and regexp_matches(r, '^\n\n(Human|Assistant):'))
             or len(ct) < 2 or len(rt) < 2 then 'no_dialogue: a side does not consist of turns marked "\n\nHuman:" and "\n\nAssistant:"'
           when ct[-1].role <> 'assistant' or rt[-1].role <> 'assistant' then 'no_response: a dialogue does not end with the assistant''s turn'
           when ct[:-2] <> rt[:-2] then 'prompts_differ: the dialogues differ before the last turn; only the last turn may differ'
       end) as problem
from turns
