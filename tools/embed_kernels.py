#!/usr/bin/env python3
"""Puts tools/kernels/*.cu, and the device code of dltrain.h, into dltrain_cuda.h as text: between its marks, a line a string.
    tools/embed_kernels.py           rewrites dltrain_cuda.h
    tools/embed_kernels.py --check   says whether it is up to date; status 1 when it is not"""
import os, re, sys

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
BEGIN, END = "/* ---- embedded by tools/embed_kernels.py: edit tools/kernels and dltrain.h ---- */\n", "/* ---- end of what is embedded ---- */\n"
DEVICE, HOST = "/* ---- device code, too:", "/* ---- no device code ---- */"


def quoted(line):
    return '    "' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n",\n'


def string(name, lines):
    return "static const char *const dl__cuda_%s_cu[] = {\n%s    NULL\n};\n" % (name, "".join(quoted(line) for line in lines))


def device_code():
    """The marked parts of dltrain.h, each with its place there."""
    out, inside = [], False
    for number, line in enumerate(open("dltrain.h").read().split("\n"), 1):
        if line.startswith(DEVICE):
            inside = True
            out.append('#line %d "dltrain.h"' % (number + 1))
        elif line.startswith(HOST):
            inside = False
        elif inside:
            out.append(line)
    return out


def row_names():
    """The elementwise rows of dltrain.h, by how their functions are called."""
    text = open("dltrain.h").read()
    out = "/* The rows of dltrain.h: of one input, of one and two scalars, of two inputs. */\n"
    for macros in ("UNARY",), ("SCALED",), ("BINARY", "COMPARE"):
        names = []
        for macro in macros:
            body = re.search(r"#define DL__%s_ROWS\(ROW\) \\\n((?:.*\\\n)*.*\n)" % macro, text).group(1)
            names += re.findall(r"\bROW\((\w+),", body)
        line = "static const char *const dl__cuda_%s_rows[] = { %s, NULL };" % (macros[0].lower(), ", ".join('"%s"' % n for n in names))
        out += re.sub(r"(.{90,120}?,) ", "\\1\n    ", line) + "\n"
    return out


def embedded():
    text = row_names()
    for file in sorted(os.listdir("tools/kernels")):
        name = file[:-3]
        lines = open("tools/kernels/" + file).read().rstrip("\n").split("\n")
        text += string(name, ['#line 1 "tools/kernels/%s"' % file] + lines)
        if name == "common":
            text += string("device", device_code())
    return text


header = open("dltrain_cuda.h").read()
start, end = header.index(BEGIN) + len(BEGIN), header.index(END)
new = header[:start] + embedded() + header[end:]
if "--check" in sys.argv:
    # line numbers move with every edit of dltrain.h; what counts is the text
    plain = lambda s: re.sub(r'#line \d+ \\"dltrain.h\\"', "", s)
    if plain(new) != plain(header):
        sys.exit("dltrain_cuda.h is stale: run tools/embed_kernels.py")
elif new != header:
    open("dltrain_cuda.h", "w").write(new)
