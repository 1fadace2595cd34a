-- format: OpenAI's preference rows: input {messages, tools}, preferred_output and non_preferred_output as lists of one turn of the assistant's
-- marked by: preferred_output
-- reads: input[messages tools], preferred_output[turn], non_preferred_output[turn]
-- leaves: input[parallel_tool_calls]
with columns as (
    select n, row, messages_at(row, '$.input.messages') as messages, messages_at(row, '$.preferred_output') as chosen, messages_at(row, '$.non_preferred_output') as rejected,
           -- Keys of the input's turns that are not read here and say something: `input[messages]` does not look into them.
           list_distinct(flatten(list_transform(list_at(row, '$.input.messages'), lambda turn:
               list_filter(json_keys(turn), lambda key: key not in ('role', 'content', 'tool_calls', 'tool_call_id', 'name', 'reasoning_content', 'reasoning', 'thinking')
                                                        and json_type(turn, '$."' || replace(key, '"', '') || '"') is distinct from 'NULL')))) as more
    from raw
)
select n, messages,
       [{text: chosen[1].content, score: 1.0, turn: chosen[1].turn}, {text: rejected[1].content, score: 0.0, turn: rejected[1].turn}] as responses,
       json_extract(row, '$.input.tools')::varchar as tools,
       coalesce(case
           when json_type(row, '$.input') is distinct from 'OBJECT' then 'missing_or_mistyped: input is ' || kind_of(row, '$.input') || '; expected an object {messages}'
           when json_type(row, '$.input.messages') is distinct from 'ARRAY' then 'missing_or_mistyped: input.messages is ' || kind_of(row, '$.input.messages') || '; expected a list of turns {role, content}' end,
           turns_problem(row, 'input.messages', messages, 'content', 'role, content'), turns_problem(row, 'preferred_output', chosen, 'content', 'role, content'),
           turns_problem(row, 'non_preferred_output', rejected, 'content', 'role, content'), case
           when len(more) > 0 then 'unread_key: not read, and they may change what is learned: input.messages.' || array_to_string(more, ', input.messages.')
           when len(chosen) <> 1 or len(rejected) <> 1 or chosen[1].role <> 'assistant' or rejected[1].role <> 'assistant'
               then 'no_response: preferred_output is ' || kind_of(row, '$.preferred_output') || ' and non_preferred_output ' || kind_of(row, '$.non_preferred_output') || '; expected one turn of the assistant''s each'
       end) as problem
from columns
