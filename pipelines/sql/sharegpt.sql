-- format: ShareGPT turns: conversations as a list of {from, value}, chosen and rejected as one such turn each
with fields as (
    select n, sharegpt_at(row, '$.conversations') as turns, text_at(row, '$.system') as system,
           coalesce(text_at(row, '$.chosen.value'), text_at(row, '$.chosen[0].value'), text_at(row, '$.chosen')) as chosen,
           coalesce(text_at(row, '$.rejected.value'), text_at(row, '$.rejected[0].value'), text_at(row, '$.rejected')) as rejected
    from raw
)
select n,
       list_concat(case when system is not null and system <> '' then [{role: 'system', content: system}] else [] end, turns) as messages,
       [{text: chosen, score: 1.0}, {text: rejected, score: 0.0}] as responses,
       case
           when turns is null then 'missing_or_mistyped: conversations must be a list of {from, value}'
           when chosen is null or rejected is null then 'missing_or_mistyped: chosen and rejected must each be a turn {from, value}'
       end as problem
from fields
