-- query: the data's own ratings beside its preference: how many pairs agree, tie or contradict, and by how much
with rated as (
    select chosen_scores['given_rating'] as c, rejected_scores['given_rating'] as r from pairs
)
select case when c is null or r is null then 'not rated' when c > r then 'agrees' when c = r then 'tie' else 'contradicts' end as ratings,
       count(*) as pairs, round(avg(c - r), 3) as difference, round(avg(c), 3) as chosen, round(avg(r), 3) as rejected
from rated group by ratings order by pairs desc
