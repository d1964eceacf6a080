"""read.py P4INFO WRITE: reads both strictly with P4Runtime's own bindings, holds the entries against
the P4Info as a server does, and prints each entry in plain numbers, one a line:

    TABLE KEY... -> ACTION PARAMETER...

A key is VALUE, VALUE/LENGTH or FIRST-LAST, with what was left out written out. The first violation of
P4Runtime's rules ends the program with its reason."""

import sys

from google.protobuf import text_format
from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2


def check(holds, *what):
    if not holds:
        sys.exit("read.py: " + " ".join(str(part) for part in what))


def read(path, message):
    """What is not in the message's definition is an error of the parser."""
    with open(path, encoding="ascii") as file:
        text_format.Parse(file.read(), message)
    return message


def number(value, width, what):
    """A canonical byte string: the shortest one, but of one byte at least."""
    check(len(value) > 0, what, "has no bytes")
    check(len(value) == 1 or value[0] != 0, what, "is not the shortest byte string:", value)
    result = int.from_bytes(value, "big")
    check(result < 1 << width, what, "does not fit in", width, "bits:", result)
    return result


def objects(found, kind):
    by_id = {}
    for one in found:
        preamble = one.preamble
        check(preamble.id >> 24 == kind, preamble.name, "has the id of another kind")
        check(preamble.id not in by_id, preamble.name, "has an id that is another's")
        check(preamble.name.split(".")[-1] == preamble.alias, preamble.name, "has another alias")
        by_id[preamble.id] = one
    check(len({one.preamble.name for one in found}) == len(found), "a name is there twice")
    return by_id


def numbered(found, what):
    check([one.id for one in found] == list(range(1, len(found) + 1)), what, "counts wrongly")


def arguments(action, given, what):
    """The values of an action's parameters, each once and in order."""
    check([one.param_id for one in given] == [one.id for one in action.params], what, "parameters")
    return [number(one.value, param.bitwidth, what) for one, param in zip(given, action.params)]


Info, Field, Ref = p4info_pb2.P4Info, p4info_pb2.MatchField, p4info_pb2.ActionRef
info = read(sys.argv[1], Info())
check(info.pkg_info.arch == "v1model", "another architecture")
tables, actions = objects(info.tables, 2), objects(info.actions, 1)
for action in actions.values():
    numbered(action.params, action.preamble.name)
used = set()
for table in tables.values():
    name = table.preamble.name
    numbered(table.match_fields, name)
    check(table.size > 0 and len(table.match_fields) > 0, name, "has no size or no fields")
    refs = {ref.id: ref.scope for ref in table.action_refs}
    check(len(refs) == len(table.action_refs), name, "names an action twice")
    check(set(refs) <= set(actions), name, "names an action that there is not")
    used |= set(refs)
    default = table.const_default_action_id
    check(refs.get(default, Ref.TABLE_ONLY) != Ref.TABLE_ONLY, name, "default action")
    check(table.initial_default_action.action_id == default, name, "has two defaults")
    arguments(actions[default], table.initial_default_action.arguments, name)
    for field in table.match_fields:
        check(field.bitwidth > 0, name, "has a field of no bits")
check(used == set(actions), "an action is no table's")

KINDS = {"exact": Field.EXACT, "lpm": Field.LPM, "range": Field.RANGE}
write = read(sys.argv[2], p4runtime_pb2.WriteRequest())
seen = set()
for update in write.updates:
    check(update.type == p4runtime_pb2.Update.INSERT, "not an insertion")
    check(update.entity.WhichOneof("entity") == "table_entry", "not an entry of a table")
    entry = update.entity.table_entry
    check(entry.table_id in tables, "an entry of no table:", entry.table_id)
    table = tables[entry.table_id]
    name = table.preamble.alias
    given = {one.field_id: one for one in entry.match}
    check(len(given) == len(entry.match), name, "matches a field twice")
    check(set(given) <= {field.id for field in table.match_fields}, name, "matches no such field")
    key, ordered = [], False
    for field in table.match_fields:
        one, width, what = given.get(field.id), field.bitwidth, f"{name}.{field.name}"
        ordered |= field.match_type == Field.RANGE
        if one is None:
            check(field.match_type != Field.EXACT, what, "is exact and left out")
            whole = f"0-{(1 << width) - 1}" if field.match_type == Field.RANGE else "0/0"
            key.append(whole)
            continue
        kind = one.WhichOneof("field_match_type")
        check(KINDS.get(kind) == field.match_type, what, "is not matched by", kind)
        if kind == "exact":
            key.append(str(number(one.exact.value, width, what)))
        elif kind == "lpm":
            value, length = number(one.lpm.value, width, what), one.lpm.prefix_len
            check(1 <= length <= width, what, "has a prefix of", length, "bits")
            check(value % (1 << (width - length)) == 0, what, "has bits behind its prefix")
            key.append(f"{value}/{length}")
        else:
            low, high = number(one.range.low, width, what), number(one.range.high, width, what)
            check(low <= high, what, "ends before it begins")
            check((low, high) != (0, (1 << width) - 1), what, "is everything and not left out")
            key.append(f"{low}-{high}")
    check((entry.priority > 0) == ordered, name, "priority")
    check(entry.action.WhichOneof("type") == "action", name, "has no action")
    call = entry.action.action
    refs = {ref.id: ref.scope for ref in table.action_refs}
    check(refs.get(call.action_id, Ref.DEFAULT_ONLY) != Ref.DEFAULT_ONLY, name, "action")
    action = actions[call.action_id]
    params = [str(value) for value in arguments(action, call.params, name)]
    where = (name, *key, entry.priority)
    check(where not in seen, "twice:", *where)
    seen.add(where)
    print(name, *key, "->", action.preamble.alias, *params)
