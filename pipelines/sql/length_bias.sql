-- query: does the longer response win? pairs by how much longer the chosen one is, in tokens
select case when chosen_length > rejected_length then 'chosen longer' when chosen_length < rejected_length then 'rejected longer' else 'equal' end as lengths,
       count(*) as pairs, round(count(*) / sum(count(*)) over (), 3) as share, round(avg(abs(chosen_length - rejected_length)), 3) as difference
from pairs group by lengths order by pairs desc
