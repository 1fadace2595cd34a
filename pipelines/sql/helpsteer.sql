-- format: HelpSteer3's and HelpSteer2's preferences: context (turns) or prompt, two responses, and overall_preference or preference_strength, below 0 where the first one is better
-- marked by: response1, response_1
-- reads: context[turn], prompt[turn], response1, response2, overall_preference, response_1, response_2, preference_strength
-- leaves: individual_preference, all_preferences_unprocessed, preference_statement, preference_elaboration, three_most_similar_preferences
-- A preference of 0 is a tie: both responses are kept, and no pair is chosen of them. How strong it is, is not read as a rating.
with columns as (
    select n, row, case when json_type(row, '$.context') is not null then 'context' else 'prompt' end as asked_in,
           case when json_type(row, '$.response1') is not null then ['response1', 'response2', 'overall_preference'] else ['response_1', 'response_2', 'preference_strength'] end as names
    from raw
), fields as (
    select *, said_at(row, '$.' || asked_in, 'user') as messages, number_at(row, '$.' || names[3]) as preference from columns
)
select n, messages,
       [{text: text_at(row, '$.' || names[1]), score: case when preference < 0 then 1.0 when preference > 0 then 0.0 else 0.5 end},
        {text: text_at(row, '$.' || names[2]), score: case when preference > 0 then 1.0 when preference < 0 then 0.0 else 0.5 end}] as responses,
       coalesce(text_problem(row, names[1]), text_problem(row, names[2]), case
           when preference is null then 'missing_or_mistyped: ' || names[3] || ' is ' || kind_of(row, '$.' || names[3]) || '; expected a number'
           when list_has_any(json_keys(row), ['chosen', 'rejected']) then 'missing_or_mistyped: chosen or rejected stands beside them: this is another format' end,
           side_problem(row, asked_in, text_at(row, '$.' || asked_in), messages)) as problem
from fields
