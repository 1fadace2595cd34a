-- macros: what the formats' SQL is written with; a row is JSON, and a value of another type than asked for is null, never converted
create macro text_at(row, path) as case when json_type(row, path) = 'VARCHAR' then json_extract_string(row, path) end;
create macro finite(number) as case when isfinite(number) then number end;
create macro number_at(row, path) as finite(try_cast(json_extract_string(row, path) as double));
create macro list_at(row, path) as case when json_type(row, path) = 'ARRAY' then from_json(json_extract(row, path), '["JSON"]') end;
create macro messages_at(row, path) as
    list_transform(list_at(row, path), lambda turn: {role: text_at(turn, '$.role'), content: text_at(turn, '$.content')});
create macro sharegpt_at(row, path) as
    list_transform(list_at(row, path), lambda turn: {
        role: case text_at(turn, '$.from') when 'human' then 'user' when 'user' then 'user' when 'gpt' then 'assistant' when 'assistant' then 'assistant' when 'system' then 'system' end,
        content: text_at(turn, '$.value')});
create macro hh_turns(dialogue) as
    list_transform(list_zip(regexp_extract_all(dialogue, '\n\n(Human|Assistant):', 1), regexp_split_to_array(dialogue, '\n\n(?:Human|Assistant):')[2:]),
                   lambda turn: {role: case turn[1] when 'Human' then 'user' else 'assistant' end, content: trim(turn[2], e' \t\r\n')});
