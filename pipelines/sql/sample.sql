-- baseline: of each prompt's samples one, drawn at random but always the same for a seed: the initial model as RPO's baseline policy
-- needs: generate
select prompt_id, arg_min(response_id, md5(response_id || coalesce(getvariable('seed'), 0)::varchar)) as response_id
from responses
where source = 'generated'
group by prompt_id
