-- format: a prompt with a list of answers, each an object with its score: responses, completions, generations, answers or candidates as [{text|response|content, score|rating|reward}]; all are kept
-- marked by: responses, completions, generations, answers, candidates
-- reads: prompt[turn], instruction, messages[turn], system, tools
-- reads: responses[text response content score rating reward], completions[text response content score rating reward], generations[text response content score rating reward]
-- reads: answers[text response content score rating reward], candidates[text response content score rating reward], reference, reference_answer, ground_truth, solution
-- optional: system, responses, completions, generations, answers, candidates, reference, reference_answer, ground_truth, solution
with columns as (
    select n, row, text_at(row, '$.system') as system,
           list_filter(['responses', 'completions', 'generations', 'answers', 'candidates'], lambda name: json_type(row, '$.' || name || '[0]') = 'OBJECT') as names,
           list_filter(['prompt', 'instruction', 'messages'], lambda name: coalesce(json_type(row, '$.' || name), 'NULL') <> 'NULL') as asked_in
    from raw
), fields as (
    select *, list_at(row, '$.' || names[1]) as answers, case when len(asked_in) > 0 then said_at(row, '$.' || asked_in[1], 'user') end as prompt
    from columns
), said as (
    select *, list_transform(answers, lambda answer: list_filter(['text', 'response', 'content'], lambda key: json_type(answer, '$.' || key) = 'VARCHAR')) as text_keys,
           list_transform(answers, lambda answer: list_filter(['score', 'rating', 'reward'], lambda key: coalesce(json_type(answer, '$.' || key), 'NULL') <> 'NULL')) as score_keys
    from fields
)
select n, with_system(system, prompt) as messages,
       list_transform(range(len(answers)), lambda i: {text: text_at(answers[i + 1], '$.' || text_keys[i + 1][1]), score: number_at(answers[i + 1], '$.' || score_keys[i + 1][1])}) as responses,
       tools_at(row) as tools,
       reference_at(row) as reference,
       coalesce(case
           when len(names) <> 1 or len(asked_in) = 0 then 'missing_or_mistyped: the row has no prompt with one list of answers as objects'
           when names[1] = 'completions' and asked_in[1] = 'instruction' and list_contains(text_keys[1], 'response') then 'missing_or_mistyped: this is the format ultrafeedback'
           when list_has_any(json_keys(row), ['chosen', 'rejected']) then 'missing_or_mistyped: chosen or rejected stands beside ' || names[1] || '; leave one out: prompts.ignore = ["' || names[1] || '"]'
           when len(list_filter(text_keys, lambda keys: len(keys) <> 1)) > 0 then 'missing_or_mistyped: not each of ' || names[1] || ' has one text: expected a list of {text, score}, the text also named response or content'
           when len(flatten(score_keys)) = 0 then 'missing_or_mistyped: none of ' || names[1] || ' has a score, rating or reward'
           when len(list_filter(score_keys, lambda keys: len(keys) > 1)) > 0 then 'two_ratings: an answer has several of score, rating and reward; leave one out: prompts.ignore = ["' || names[1] || '.' || list_filter(score_keys, lambda keys: len(keys) > 1)[1][2] || '"]'
           when len(list_filter(range(len(answers)), lambda i: len(score_keys[i + 1]) = 1 and number_at(answers[i + 1], '$.' || score_keys[i + 1][1]) is null)) > 0
               then 'bad_rating: a score of ' || names[1] || ' is no number' end,
           side_problem(row, asked_in[1], text_at(row, '$.' || asked_in[1]), prompt), optional_text_problem(row, 'system'), reference_problem(row), case
           when len(list_filter(asked_in, lambda name: trimmed(said_at(row, '$.' || name, 'user')) is distinct from trimmed(prompt))) > 0
               then 'two_prompts: ' || array_to_string(asked_in, ' and ') || ' are both there and differ; leave one out: prompts.ignore = ["' || asked_in[2] || '"]'
       end) as problem
from said
