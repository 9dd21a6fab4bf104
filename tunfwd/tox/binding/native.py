"""Makes the C of a compiled module with the functions of cdef.py, as quick to call as Python's own.

Used by the build hook (hatch_build.py) alone. The module is not linked to libtoxcore: each function of it is
a pointer that `tunfwd_open` looks up, so that it is built without libtoxcore and runs with any version.

It also has libsodium's `sodium_mlock` and `sodium_munlock`, in a form that asks the kernel nothing. Where it
is loaded first, and for all (opening.py), toxcore calls these: memory.py says why. What they unlock is wiped,
as by libsodium's.
"""

import re
from typing import Final

from cffi import FFI

from tunfwd.tox.binding.cdef import CDEF

MODULE: Final = "tunfwd.tox.binding._native"

_FUNCTIONS: Final = re.findall(r"^(?!typedef)[\w ]+?\*? ?\*?(tox_\w+)\(", CDEF, re.MULTILINE)
_CALLBACKS: Final = re.findall(r"^typedef void tox_(\w+)_cb\(([^)]*)\);", CDEF, re.MULTILINE)

_OWN: Final = """
const char *tunfwd_open(const char *soname);  // NULL, or why it cannot be opened
bool tunfwd_has(const char *function);        // whether what was opened has it
"""

_SOURCE: Final = """
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
%(declarations)s
static struct { %(pointers)s } tunfwd_tox;

static const struct { const char *name; void **pointer; } tunfwd_functions[] = { %(table)s };
enum { TUNFWD_FUNCTIONS = sizeof(tunfwd_functions) / sizeof(*tunfwd_functions) };

static const char *tunfwd_open(const char *soname) {
    void *library = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return dlerror();
    for (size_t i = 0; i < TUNFWD_FUNCTIONS; i++)
        *tunfwd_functions[i].pointer = dlsym(library, tunfwd_functions[i].name);
    return NULL;
}

static bool tunfwd_has(const char *function) {
    for (size_t i = 0; i < TUNFWD_FUNCTIONS; i++)
        if (strcmp(tunfwd_functions[i].name, function) == 0)
            return *tunfwd_functions[i].pointer != NULL;
    return false;
}

__attribute__((visibility("default"))) int sodium_mlock(void *address, size_t length) {
    (void)address, (void)length;
    return 0;
}

__attribute__((visibility("default"))) int sodium_munlock(void *address, size_t length) {
    explicit_bzero(address, length);
    return 0;
}

%(names)s
"""


def builder() -> FFI:
    """Return what compiles the module."""
    builder = FFI()
    handlers = "".join(f"void on_{event}({parameters});\n" for event, parameters in _CALLBACKS)
    builder.cdef(f'{CDEF}{_OWN}extern "Python" {{\n{handlers}}}\n')
    builder.set_source(
        MODULE,
        _SOURCE
        % {
            "declarations": CDEF,
            "pointers": " ".join(f"__typeof__({name}) *{name};" for name in _FUNCTIONS),
            "table": ", ".join(f'{{"{name}", (void **)&tunfwd_tox.{name}}}' for name in _FUNCTIONS),
            "names": "\n".join(f"#define {name} (*tunfwd_tox.{name})" for name in _FUNCTIONS),
        },
        libraries=["dl"],
        extra_compile_args=["-O2", "-g0"],
    )
    return builder
