-- format: ranked answers (Nectar): prompt, a text or a dialogue marked "\n\nHuman:" and "\n\nAssistant:"; answers as [{answer, rank}], rank 1 being the best; all are kept, their score is minus their rank
-- marked by: answers
-- reads: prompt, answers[answer rank]
with fields as (
    select n, row, text_at(row, '$.prompt') as prompt, e'\n\n' || ltrim(text_at(row, '$.prompt'), e'\n') as dialogue, list_at(row, '$.answers') as answers
    from raw
), turns as (
    select *, hh_turns(dialogue) as ht, regexp_matches(dialogue, '^\n\n(Human|Assistant):') as is_dialogue from fields
)
select n,
       case when not is_dialogue then [{role: 'user', content: prompt}] when ht[-1].role = 'assistant' and is_blank(ht[-1].content) then ht[:-2] else ht end as messages,
       list_transform(answers, lambda answer: {text: text_at(answer, '$.answer'), score: -number_at(answer, '$.rank')}) as responses,
       coalesce(text_problem(row, 'prompt'), case
           when len(list_filter(answers, lambda answer: text_at(answer, '$.answer') is not null and number_at(answer, '$.rank') is not null)) is distinct from len(answers) or coalesce(len(answers), 0) = 0
               then 'missing_or_mistyped: answers is ' || kind_of(row, '$.answers') || '; expected a list of {answer, rank}'
           when list_has_any(json_keys(row), ['chosen', 'rejected', 'messages']) then 'missing_or_mistyped: the row has chosen, rejected or messages as well: this is another format'
       end) as problem
from turns
