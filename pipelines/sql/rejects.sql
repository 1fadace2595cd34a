-- query: what was refused: stage, reason and how often, with the first place of each
select stage, reason, count(*) as count, min_by(file, line) as file, min(line) as first_line, any_value(detail) as detail
from rejects group by stage, reason order by count desc, stage, reason
