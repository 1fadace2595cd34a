-- pairs: as the data gave them: of the responses compared with each other, the best against the worst; ties and missing scores fall out
-- needs: given
with once as (
    -- A text that stands twice in one comparison is one response, with the mean of its scores.
    select prompt_id, comparison_id, response_id, avg(score) as score
    from scores
    where scorer = 'given' and comparison_id is not null
    group by all
)
select prompt_id,
       arg_max(response_id, (score, response_id)) filter (score is not null) as chosen_response_id,
       arg_min(response_id, (score, response_id)) filter (score is not null) as rejected_response_id,
       max(score) as chosen_score,
       min(score) as rejected_score,
       comparison_id,
       case when count(score) < 2 then 'no_score' when max(score) = min(score) then 'tie' end as skipped
from once
group by prompt_id, comparison_id
