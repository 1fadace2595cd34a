-- format: UltraFeedback: instruction, completions as a list of {response, scores}; every response is kept with its score
-- The score is fine-grained_score (the mean of the aspects' ratings) where there is one: overall_score holds 10 for some 1 in the published data.
with fields as (
    select n, text_at(row, '$.instruction') as instruction, list_at(row, '$.completions') as completions
    from raw
)
select n,
       [{role: 'user', content: instruction}] as messages,
       list_transform(completions, lambda answer: {
           text: text_at(answer, '$.response'),
           score: coalesce(number_at(answer, '$."fine-grained_score"'), number_at(answer, '$.overall_score'), number_at(answer, '$.score'))}) as responses,
       case
           when instruction is null then 'missing_or_mistyped: instruction must be a string'
           when completions is null or len(completions) = 0 then 'missing_or_mistyped: completions must be a list of {response, overall_score}'
       end as problem
from fields
