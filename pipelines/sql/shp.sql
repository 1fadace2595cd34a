-- format: two posts that answer one (SHP): history, human_ref_A, human_ref_B and labels, 1 where human_ref_A is the better one
-- marked by: human_ref_A
-- reads: history, human_ref_A, human_ref_B, labels, score_A, score_B
-- leaves: score_ratio
-- score_A and score_B are the posts' votes: they are kept as the data's own ratings.
with fields as (
    select n, row, text_at(row, '$.history') as history, text_at(row, '$.human_ref_A') as a, text_at(row, '$.human_ref_B') as b, number_at(row, '$.labels') as labels from raw
)
select n, [{role: 'user', content: history}] as messages,
       [{text: a, score: case labels when 1 then 1.0 else 0.0 end, rating: number_at(row, '$.score_A')},
        {text: b, score: case labels when 1 then 0.0 else 1.0 end, rating: number_at(row, '$.score_B')}] as responses,
       coalesce(text_problem(row, 'history'), text_problem(row, 'human_ref_A'), text_problem(row, 'human_ref_B'), case
           when labels is null or labels not in (0, 1) then 'missing_or_mistyped: labels is ' || kind_of(row, '$.labels') || '; expected 0 or 1'
       end) as problem
from fields
