"""Generated bindings of a Terraform provider → its schema, as the plugin protocol says it.

A provider's binary comes from Terraform's registry alone. Its bindings for other languages are
ordinary packages, and they repeat the schema whole: each accessor stands below a comment
`// name - computed: …, optional: …, required: …`, and its return type is the attribute's.

What they do not repeat, and so nothing here can check: rules between attributes, values of enums,
what is sensitive, provider functions.

    bindings.py WHEEL OUT [nested]    writes a serialised GetProviderSchema.Response

nested: the provider is of the newer framework, whose structures are attributes; else blocks.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tf.gen import tfplugin_pb2 as pb

Attribute, NestedBlock = pb.Schema.Attribute, pb.Schema.NestedBlock

_CLASS = re.compile(r"^class (\w+) extends cdktn\.(\w+) \{$(.*?)^\}$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(
    r"// (?P<name>\w+) - computed: (?P<computed>\w+), optional: (?P<optional>\w+), "
    r"required: (?P<required>\w+)\n"
    r"(?:    _\w+(?: = new (?:\w+_\d+\.)?(?P<kind>[\w.]+)"
    r"\(this, \"\w+\"(?:, (?P<is_set>true|false))?\))?;\n)?"
    r"    get \w+\(\) \{\n(?:\s*//.*\n)*\s*return (?P<type>.*);"
)
_STRUCT = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{$(.*?)^\}$", re.DOTALL | re.M)
_SETTING = re.compile(
    r"^\s+(\w+): \{\n\s+value: .*\n\s+isBlock: \w+,\n\s+type: \"(\w+)\",\n"
    r"\s+storageClassType: \"(\w+)\"",
    re.MULTILINE,
)
_TYPES = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
    "getNumberMapAttribute": ["map", "number"],
    "getBooleanMapAttribute": ["map", "bool"],
    "cdktn.StringMap": ["map", "string"],
    "cdktn.NumberMap": ["map", "number"],
    "cdktn.BooleanMap": ["map", "bool"],
}
_STORED = {
    "string": "string",
    "number": "number",
    "boolean": "bool",
    "stringList": ["list", "string"],
    "stringMap": ["map", "string"],
}


@dataclass(frozen=True)
class _Class:
    """One class of a file. is_single: a structure that is one, and no list of at most one."""

    parent: str
    body: str
    is_single: bool


class _File:
    """The classes of one generated file, each a resource or a structure inside it."""

    def __init__(self, text: str, is_nested: bool) -> None:
        self._text, self._is_nested = text, is_nested
        self.classes = {
            name: _Class(parent, body, ", false, 0);" not in body)
            for name, parent, body in _CLASS.findall(text)
        }

    def schema(self, name: str) -> pb.Schema:
        return pb.Schema(version=0, block=self._block(name, ()))

    def _block(self, name: str, inside: tuple[str, ...]) -> pb.Schema.Block:
        block = pb.Schema.Block()
        if name in inside:  # a structure that holds itself: as deep as Terraform's own need goes
            return block
        for field in _FIELD.finditer(self.classes[name].body):
            made = self._field(field, (*inside, name))
            (block.attributes if isinstance(made, Attribute) else block.block_types).append(made)
        return block

    def _field(self, field: re.Match[str], inside: tuple[str, ...]) -> Attribute | NestedBlock:
        flags = {flag: field[flag] == "true" for flag in ("computed", "optional", "required")}
        kind = field["kind"]
        if kind is None or kind.startswith("cdktn."):
            kind_type = _TYPES.get(kind) if kind else _type_of(field["type"])
            # NOTE: below a set, Terraform takes no attribute of any type; an object without
            # attributes takes every object.
            unknown = "dynamic" if len(inside) == 1 else ["object", {}]
            return Attribute(name=field["name"], type=_encoded(kind_type or unknown), **flags)
        inner, nesting = self._structure(kind, field["is_set"] == "true")
        if flags["computed"] or self._is_nested:
            if self._is_nested:
                whole = pb.Schema.Object(
                    attributes=self._block(inner, inside).attributes,
                    nesting=getattr(pb.Schema.Object, nesting.partition("|")[0]),
                )
                return Attribute(name=field["name"], nested_type=whole, **flags)
            made = _wrapped(_object(self._block(inner, inside)), nesting)
            return Attribute(name=field["name"], type=_encoded(made), **flags)
        return NestedBlock(
            type_name=field["name"],
            block=self._block(inner, inside),
            nesting=getattr(NestedBlock, nesting.partition("|")[0]),
            min_items=int(flags["required"] and nesting not in ("SINGLE", "MAP")),
            max_items=int(nesting.endswith("|1")),
        )

    def _structure(self, kind: str, is_set: bool) -> tuple[str, str]:
        """Return the class of one element, and how elements are held: SINGLE, LIST, LIST|1 …"""
        if kind.endswith("List"):
            return f"{kind.removesuffix('List')}OutputReference", "SET" if is_set else "LIST"
        if kind.endswith("Map"):
            return f"{kind.removesuffix('Map')}OutputReference", "MAP"
        return kind, "SINGLE" if self.classes[kind].is_single else "LIST|1"

    def provider(self) -> pb.Schema:
        """Return the schema of the provider's own configuration; nothing in it is required."""
        structs = dict(_STRUCT.findall(self._text))
        (body,) = (c.body for c in self.classes.values() if c.parent == "TerraformProvider")
        return pb.Schema(
            block=self._settings(body.partition("synthesizeHclAttributes")[2], structs)
        )

    def _settings(self, body: str, structs: dict[str, str]) -> pb.Schema.Block:
        block = pb.Schema.Block()
        for name, kind, stored in _SETTING.findall(body):
            struct = stored.removesuffix("List")
            inner = structs.get(struct[:1].lower() + struct[1:])
            if inner is None:
                made = _STORED.get(stored, "dynamic")
                made = ["set", "string"] if kind == "set" and stored == "stringList" else made
                block.attributes.add(name=name, type=_encoded(made), optional=True)
            elif self._is_nested:
                attributes = self._settings(inner, structs).attributes
                nesting = pb.Schema.Object.SINGLE if kind == "struct" else pb.Schema.Object.LIST
                whole = pb.Schema.Object(attributes=attributes, nesting=nesting)
                block.attributes.add(name=name, nested_type=whole, optional=True)
            else:
                inner_block = self._settings(inner, structs)
                block.block_types.add(type_name=name, block=inner_block, nesting=NestedBlock.LIST)
        return block


def _type_of(expression: str) -> object:
    getter = re.search(r"this\.(get\w+Attribute)\(", expression)
    made = _TYPES.get(getter[1]) if getter else None
    if made is not None and "Fn.tolist(" in expression:
        return ["set", made[1]]
    return made


def _object(block: pb.Schema.Block) -> object:
    types = {item.name: json.loads(item.type) for item in block.attributes}
    for nested in block.block_types:
        nesting = NestedBlock.NestingMode.Name(nested.nesting)
        types[nested.type_name] = _wrapped(_object(nested.block), nesting)
    return ["object", types]


def _wrapped(made: object, nesting: str) -> object:
    nesting = nesting.partition("|")[0].lower()
    return made if nesting == "single" else [nesting, made]


def _encoded(made: object) -> bytes:
    return json.dumps(made).encode()


def _folders(wheel: Path) -> dict[str, str]:
    """Return each resource's folder and all of its code; the largest are split into many files."""
    folders: dict[str, list[str]] = {}
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with outer.open(name) as inner, tarfile.open(fileobj=inner, mode="r|gz") as files:
            for member in files:
                parts = member.name.split("/")  # package/lib/FOLDER/…
                if member.name.endswith(".js") and len(parts) > 3:
                    content = files.extractfile(member)
                    assert content is not None
                    folders.setdefault(parts[2], []).append(content.read().decode())
    return {folder: "\n".join(texts) for folder, texts in folders.items()}


def read_bindings(wheel: Path, is_nested: bool) -> tuple[str, pb.GetProviderSchema.Response]:
    """Return the version of the provider that the bindings were made from, and its schema."""
    whole, versions = pb.GetProviderSchema.Response(), set()
    for folder, text in _folders(wheel).items():
        file = _File(text, is_nested)
        versions |= set(re.findall(r"providerVersion: '([\d.]+)'", text))
        if folder == "provider":
            whole.provider.CopyFrom(file.provider())
            continue
        for name, found in file.classes.items():
            kind = re.search(r"static tfResourceType = \"(\w+)\"", found.body)
            if kind is None:
                continue
            if found.parent == "TerraformResource":
                whole.resource_schemas[kind[1]].CopyFrom(file.schema(name))
            elif found.parent == "TerraformDataSource":
                whole.data_source_schemas[kind[1]].CopyFrom(file.schema(name))
    (version,) = versions
    return version, whole


if __name__ == "__main__":
    wheel, out, *more = sys.argv[1:]
    version, schema = read_bindings(Path(wheel), more == ["nested"])
    Path(out).write_bytes(schema.SerializeToString())
    print(version, len(schema.resource_schemas), len(schema.data_source_schemas))
