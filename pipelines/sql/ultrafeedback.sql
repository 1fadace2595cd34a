-- format: UltraFeedback: instruction, completions as a list of {response, scores}; every response is kept with its score
-- marked by: completions
-- reads: instruction, completions[response fine-grained_score overall_score score]
-- leaves: source, models, correct_answers, incorrect_answers, completions[annotations critique custom_system_prompt model principle]
-- The score is fine-grained_score (the mean of the aspects' ratings) where there is one: overall_score holds 10 for some 1 in the published data.
with fields as (
    select n, row, text_at(row, '$.instruction') as instruction, list_at(row, '$.completions') as completions
    from raw
)
select n,
       [{role: 'user', content: instruction}] as messages,
       list_transform(completions, lambda answer: {
           text: text_at(answer, '$.response'),
           score: coalesce(number_at(answer, '$."fine-grained_score"'), number_at(answer, '$.overall_score'), number_at(answer, '$.score'))}) as responses,
       coalesce(text_problem(row, 'instruction'), case
           when completions is null or len(completions) = 0 then 'missing_or_mistyped: completions is ' || kind_of(row, '$.completions') || '; expected a list of {response, overall_score}'
           when len(list_filter(completions, lambda answer: text_at(answer, '$.response') is null)) > 0
               then 'missing_or_mistyped: completions is ' || kind_of(row, '$.completions') || ', and not each has a string response; expected a list of {response, overall_score}'
       end) as problem
from fields
