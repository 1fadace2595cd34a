-- query: does a scorer say what [check] says? means of right and wrong responses, correlation, and how often the right one of a prompt's two is rated higher
with truth as (
    select response_id, avg(score) as truth from scores where scorer = 'check' group by all
), rated as (
    select prompt_id, scorer, response_id, avg(score) as score, any_value(truth) as truth
    from scores join truth using (response_id) where scorer <> 'check' group by all
), matched as (
    select a.scorer as scorer, case when a.score > b.score then 1 when a.score = b.score then 0.5 else 0 end as agrees
    from rated a join rated b using (prompt_id, scorer)
    where a.truth > b.truth and a.score is not null and b.score is not null
)
select scorer, responses, mean_if_right, mean_if_wrong, correlation, agrees
from (select scorer, count(score) as responses, round(avg(score) filter (truth > 0.5), 3) as mean_if_right, round(avg(score) filter (truth <= 0.5), 3) as mean_if_wrong,
             round(corr(score, truth), 3) as correlation from rated group by scorer)
left join (select scorer, round(avg(agrees), 3) as agrees from matched group by scorer) using (scorer)
order by scorer
