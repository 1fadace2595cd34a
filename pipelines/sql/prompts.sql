-- format: prompts alone: prompt as a string or a message list, or messages
-- reads: prompt[turn], messages[turn], tools, system, reference, reference_answer, ground_truth, solution
-- optional: system, reference, reference_answer, ground_truth, solution
with fields as (
    select n, row, text_at(row, '$.prompt') as p, coalesce(messages_at(row, '$.prompt'), messages_at(row, '$.messages')) as messages,
           coalesce(json_type(row, '$.prompt'), 'NULL') <> 'NULL' as has_prompt, coalesce(json_type(row, '$.messages'), 'NULL') <> 'NULL' as has_messages,
           text_at(row, '$.system') as system, len(list_intersect(json_keys(row), ['chosen', 'rejected', 'response1', 'response_1', 'completion', 'completions', 'response', 'responses', 'generations', 'candidates', 'all_generated_responses', 'answer', 'answers', 'output', 'outputs', 'conversations'])) > 0 as answered
    from raw
)
select n,
       list_concat(case when system is not null and system <> '' then [{role: 'system', content: system}] else [] end,
                   case when p is not null then [{role: 'user', content: p}] else messages end) as messages,
       [] as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       coalesce(case
           when answered then 'has_responses: the row has responses as well: this is another format'
           when not has_prompt and not has_messages then 'missing_or_mistyped: the row has neither prompt nor messages'
           when has_prompt and has_messages and json_array_length(row, '$.messages') > 0 and messages_at(row, '$.messages') is distinct from coalesce(messages_at(row, '$.prompt'), [{role: 'user', content: p}])
               then 'two_prompts: prompt and messages are both there and differ; leave one out: prompts.ignore = ["messages"]'
       end, case when has_prompt then side_problem(row, 'prompt', p, messages) else side_problem(row, 'messages', null, messages) end,
            optional_text_problem(row, 'system'), reference_problem(row)) as problem
from fields
