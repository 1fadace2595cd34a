-- query: does the longer response win? pairs by how much longer the chosen one is, in tokens
select case when chosen_length > rejected_length then 'chosen longer' when chosen_length < rejected_length then 'rejected longer' else 'equal' end as lengths,
       count(*) as pairs, count(*) / sum(count(*)) over () as share, avg(abs(chosen_length - rejected_length)) as difference
from pairs group by lengths order by pairs desc
