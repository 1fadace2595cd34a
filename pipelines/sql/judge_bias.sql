-- query: what a judge leans to: the first place (0 is none), the longer response (0.5 is none); and how often its two orders agree
with rated as (
    select scores.prompt_id as prompt_id, scorer, comparison_id, response_id, score, distribution, agreed, length(text) as letters
    from scores join responses using (response_id)
    where score is not null
), matched as (
    select a.scorer as scorer, (a.letters > b.letters) = (a.score > b.score) as longer_wins
    from rated a join rated b on a.prompt_id = b.prompt_id and a.scorer = b.scorer and a.comparison_id is not distinct from b.comparison_id
    where a.response_id < b.response_id and a.score <> b.score and a.letters <> b.letters
)
select scorer, scored, unscored, first_place_gains, orders_agree, longer_wins
from (select scorer, count(score) as scored, count(*) - count(score) as unscored,
             round(avg(distribution[1] - distribution[2]) filter (scorer = 'pairwise'), 3) as first_place_gains, round(avg(agreed::int), 3) as orders_agree
      from scores group by scorer)
left join (select scorer, round(avg(longer_wins::int), 3) as longer_wins from matched group by scorer) using (scorer)
order by scorer
