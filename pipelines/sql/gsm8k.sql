-- format: grade-school-math solutions: question, ground_truth, and models' solutions beside it as {is_correct, solution}; all are kept, scored 1 for right and 0 for wrong
-- marked by: question
-- reads: question, ground_truth, *[is_correct solution]
-- The ground truth is a response, and the reference for the judge as well.
-- The worked solutions' calculator marks <<3+4=7>> are left out: they are no part of the text that is said.
with fields as (
    select n, text_at(row, '$.question') as question, text_at(row, '$.ground_truth') as truth,
           list_filter(list_filter(json_keys(row), lambda key: key <> '' and not contains(key, '"')), lambda key: json_type(row, '$."' || key || '".is_correct') = 'BOOLEAN') as models, row
    from raw
), told as (
    select n, row, question, truth,
           list_transform(models, lambda key: {
               text: regexp_replace(text_at(row, '$."' || key || '".solution'), '<<[^<>]*>>', '', 'g'),
               score: case when json_extract_string(row, '$."' || key || '".is_correct') = 'true' then 1.0 else 0.0 end}) as solutions
    from fields
)
select n,
       [{role: 'user', content: question}] as messages,
       list_concat([{text: regexp_replace(truth, '<<[^<>]*>>', '', 'g'), score: 1.0}], list_filter(solutions, lambda solution: trim(coalesce(solution.text, '')) <> '')) as responses,
       regexp_replace(truth, '<<[^<>]*>>', '', 'g') as reference,
       coalesce(text_problem(row, 'question'), text_problem(row, 'ground_truth'), case
           when len(solutions) = 0 then 'missing_or_mistyped: no model''s solution {is_correct, solution} stands beside the question'
       end) as problem
from told
