"""Random kernels in C++ that mean the same on the host and on the GPU: every operation in them has one right result.

`source(seed)` is a kernel `random_program(const uint32_t* in, uint64_t* out, uint32_t n)` for 64 work-items a
workgroup. No signed overflow (arithmetic is unsigned or wraps by cast), no shift past the width, no division by zero,
no conversion out of range; a NaN counts as any other. Compile it with -ffp-contract=off.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

INTEGERS = ("uint32_t", "int32_t", "uint64_t", "int64_t", "uint16_t", "int16_t", "uint8_t", "int8_t")
FLOATS = ("float", "double")
WIDTH = {
    "uint32_t": 32,
    "int32_t": 32,
    "uint64_t": 64,
    "int64_t": 64,
    "uint16_t": 16,
    "int16_t": 16,
    "uint8_t": 8,
    "int8_t": 8,
}

PROLOGUE = """#include <device.h>

#define APART __attribute__((noinline))

INLINE uint64_t fold(uint64_t h, uint64_t v) { return (h ^ v) * 0x9e3779b97f4a7c15ull + (h >> 29); }
INLINE uint64_t bits(float v) { return v != v ? 0x7fc00000u : __builtin_bit_cast(uint32_t, v); }
INLINE uint64_t bits(double v) { return v != v ? 0x7ff8000000000000ull : __builtin_bit_cast(uint64_t, v); }
template <class T>
INLINE uint64_t bits(T v) {
  return static_cast<uint64_t>(v);
}
// Every float is in range of every integer after this, and a NaN is 0.
INLINE double tame(double v) { return v > -100.0 && v < 100.0 ? v : 0.0; }
"""


@dataclass
class Program:
    seed: int
    rng: random.Random = field(init=False)
    lines: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # variable to type
    functions: list[tuple[str, str, str]] = field(default_factory=list)  # name, result, argument type
    fixed: set[str] = field(default_factory=set)
    count: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # Expressions ------------------------------------------------------------------------------------------------------

    def constant(self, type_: str) -> str:
        if type_ in FLOATS:
            value = self.rng.choice([0.0, 1.0, -1.0, 0.5, 3.0, 1e-40, 65536.0, self.rng.uniform(-10, 10)])
            return f"static_cast<{type_}>({value!r})"
        value = self.rng.choice([0, 1, 2, 3, 5, 63, 64, 127, 255, 4096, 65535, self.rng.getrandbits(31)])
        return f"static_cast<{type_}>({value}u)"

    def variable(self, type_: str) -> str:
        known = [name for name, kind in self.names.items() if kind == type_]
        return self.rng.choice(known) if known else self.constant(type_)

    def expression(self, type_: str, depth: int) -> str:
        if depth <= 0 or self.rng.random() < 0.1:
            return self.variable(type_) if self.rng.random() < 0.75 else self.constant(type_)
        if self.rng.random() < 0.15:
            return self.conversion(type_, depth)
        if self.rng.random() < 0.12:
            a, b = self.expression(type_, depth - 1), self.expression(type_, depth - 1)
            return f"({self.condition(depth - 1)} ? {a} : {b})"
        callable_ = [name for name, result, _ in self.functions if result == type_]
        if callable_ and self.rng.random() < 0.15:
            name = self.rng.choice(callable_)
            argument = next(kind for known, _, kind in self.functions if known == name)
            return f"{name}({self.expression(argument, depth - 1)}, {self.expression(type_, depth - 1)})"
        return self.floating(type_, depth) if type_ in FLOATS else self.integer(type_, depth)

    def conversion(self, type_: str, depth: int) -> str:
        source = self.rng.choice([kind for kind in (*INTEGERS, *FLOATS) if kind != type_])
        inner = self.expression(source, depth - 1)
        if source in FLOATS and type_ not in FLOATS:
            if type_.startswith("u"):
                return f"static_cast<{type_}>(__builtin_fabs(tame(static_cast<double>({inner}))))"
            return f"static_cast<{type_}>(tame(static_cast<double>({inner})))"
        return f"static_cast<{type_}>({inner})"

    def floating(self, type_: str, depth: int) -> str:
        a, b = self.expression(type_, depth - 1), self.expression(type_, depth - 1)
        f = "f" if type_ == "float" else ""
        forms = ["({a} + {b})", "({a} - {b})", "({a} * {b})", "({a} / {b})", "(-{a})", "__builtin_fabs{f}({a})"]
        forms += ["__builtin_sqrt{f}(__builtin_fabs{f}({a}))", "__builtin_floor{f}({a})", "__builtin_trunc{f}({a})"]
        forms += ["__builtin_fma{f}({a}, {b}, {c})", "({a} < {b} ? {a} : {b})", "__builtin_rint{f}({a})"]
        # The sign of a NaN is anybody's.
        forms += ["__builtin_copysign{f}({a}, {b} == {b} ? {b} : 1)", "__builtin_ceil{f}({a})"]
        c = self.expression(type_, depth - 2)
        return self.rng.choice(forms).format(a=a, b=b, c=c, f=f)

    def integer(self, type_: str, depth: int) -> str:
        a, b = self.expression(type_, depth - 1), self.expression(type_, depth - 1)
        bits = WIDTH[type_]
        wide = "uint64_t" if bits == 64 else "uint32_t"
        positive = f"((static_cast<{wide}>({b}) & 0x7f) + 1)"
        unsigned = [
            f"(static_cast<{wide}>({a}) {op} static_cast<{wide}>({b}))" for op in ("+", "-", "*", "&", "|", "^")
        ]
        shift = f"(static_cast<uint32_t>({b}) & {bits - 1})"
        shifts = [f"(static_cast<{wide}>({a}) << {shift})", f"({a} >> {shift})"]
        # No constant above 2^31 by something small: clang 22 at -O0 divides those as 24-bit floats.
        quotients = [f"(({a} ^ {self.variable(type_)}) {op} static_cast<{type_}>({positive}))" for op in ("/", "%")]
        counts = ["__builtin_popcountll(static_cast<uint64_t>({a}))", "(~static_cast<{wide}>({a}))"]
        counts += [
            "({a} < {b} ? {a} : {b})",
            "({a} < {b} ? {b} : {a})",
            "(static_cast<{wide}>(0) - static_cast<{wide}>({a}))",
        ]
        counts += ["(({a} != 0) + 2 * ({a} >= {b}))", "__builtin_bswap32(static_cast<uint32_t>({a}))"]
        high = f"((static_cast<uint64_t>(static_cast<uint32_t>({a})) * static_cast<uint32_t>({b})) >> 32)"
        rotate = f"((static_cast<{wide}>({a}) << 9) | (static_cast<{wide}>({a}) >> ({bits if bits > 16 else 32} - 9)))"
        pick = self.rng.random()
        if pick < 0.45:
            text = self.rng.choice(unsigned)
        elif pick < 0.6:
            text = self.rng.choice(shifts)
        elif pick < 0.7 and type_ in self.names.values():
            text = self.rng.choice(quotients)
        elif pick < 0.9:
            text = self.rng.choice(counts).format(a=a, b=b, wide=wide)
        else:
            text = self.rng.choice([high, rotate])
        return f"static_cast<{type_}>({text})"

    def condition(self, depth: int) -> str:
        type_ = self.rng.choice((*INTEGERS, *FLOATS))
        a, b = self.expression(type_, depth - 1), self.expression(type_, depth - 1)
        test = f"{a} {self.rng.choice(['<', '<=', '==', '!=', '>', '>='])} {b}"
        if depth > 1 and self.rng.random() < 0.3:
            return f"(({test}) {self.rng.choice(['&&', '||'])} {self.condition(depth - 1)})"
        return f"({test})"

    # Statements -------------------------------------------------------------------------------------------------------

    def emit(self, indent: int, text: str) -> None:
        self.lines.append("  " * indent + text)

    def declare(self, indent: int) -> None:
        type_ = self.rng.choice((*INTEGERS, *FLOATS))
        value, name = self.expression(type_, 3), self.fresh("v")
        self.emit(indent, f"{type_} {name} = {value};")
        self.names[name] = type_

    def assign(self, indent: int) -> None:
        open_ = sorted(set(self.names) - self.fixed)
        if not open_:
            return self.declare(indent)
        name = self.rng.choice(open_)
        self.emit(indent, f"{name} = {self.expression(self.names[name], 3)};")
        return None

    def block(self, indent: int, depth: int) -> None:
        outer = dict(self.names)
        for _ in range(self.rng.randrange(1, 4)):
            self.statement(indent, depth)
        self.names = {name: type_ for name, type_ in self.names.items() if name in outer}

    def loop(self, indent: int, depth: int) -> None:
        name = self.fresh("i")
        self.emit(indent, f"for (uint32_t {name} = 0; {name} < ({self.expression('uint32_t', 2)} & 7u); ++{name}) {{")
        self.names[name] = "uint32_t"
        self.fixed.add(name)
        # The bound may change while the loop runs; a second counter ends it.
        self.emit(indent + 1, "if (++turns > 400u) break;")
        self.block(indent + 1, depth - 1)
        if self.rng.random() < 0.4:
            self.emit(indent + 1, f"if {self.condition(2)} {self.rng.choice(['break', 'continue'])};")
        self.emit(indent, "}")
        del self.names[name]

    def switch(self, indent: int, depth: int) -> None:
        self.emit(indent, f"switch ({self.expression('uint32_t', 2)} % 5u) {{")
        for case in self.rng.sample(range(5), 3):
            self.emit(indent + 1, f"case {case}: {{")
            self.block(indent + 2, depth - 1)
            self.emit(indent + 1, "}" if self.rng.random() < 0.2 else "} break;")
        self.emit(indent + 1, "default: break;")
        self.emit(indent, "}")

    def array(self, indent: int) -> None:
        name, type_ = self.fresh("a"), self.rng.choice(("uint32_t", "uint8_t", "uint64_t", "float", "int16_t"))
        size, index = self.rng.choice([4, 8, 16]), self.fresh("i")
        self.emit(indent, f"{type_} {name}[{size}];")
        value = self.expression(type_, 2)
        self.emit(
            indent,
            f"for (uint32_t {index} = 0; {index} < {size}u; ++{index}) {name}[{index}] = "
            f"static_cast<{type_}>({value}) + static_cast<{type_}>({index});",
        )
        place = self.expression("uint32_t", 2)
        self.emit(indent, f"{name}[({place}) % {size}u] = {self.expression(type_, 2)};")
        read = self.fresh("v")
        self.emit(indent, f"{type_} {read} = {name}[({self.expression('uint32_t', 2)}) % {size}u];")
        self.names[read] = type_

    def exchange(self) -> None:
        """Through LDS with another work-item: at the top level only, where all arrive."""
        source, name = self.variable("uint32_t"), self.fresh("v")
        step = self.rng.choice([1, 3, 7, 31, 33])
        self.emit(1, "barrier();")
        self.emit(1, f"tile[t] = {source};")
        self.emit(1, "barrier();")
        self.emit(1, f"uint32_t {name} = tile[(t * {step}u + {self.rng.randrange(64)}u) % 64u];")
        self.names[name] = "uint32_t"

    def statement(self, indent: int, depth: int) -> None:
        pick = self.rng.random()
        if depth > 0 and pick < 0.18:
            self.emit(indent, f"if {self.condition(2)} {{")
            self.block(indent + 1, depth - 1)
            if self.rng.random() < 0.5:
                self.emit(indent, "} else {")
                self.block(indent + 1, depth - 1)
            self.emit(indent, "}")
        elif depth > 0 and pick < 0.3:
            self.loop(indent, depth)
        elif depth > 0 and pick < 0.37:
            self.switch(indent, depth)
        elif pick < 0.43:
            self.array(indent)
        elif pick < 0.7:
            self.assign(indent)
        else:
            self.declare(indent)

    def function(self) -> None:
        result, argument, name = (
            self.rng.choice((*INTEGERS, *FLOATS)),
            self.rng.choice((*INTEGERS, *FLOATS)),
            self.fresh("f"),
        )
        self.names = {"x": argument, "y": result}
        apart = "APART " if self.rng.random() < 0.6 else ""
        self.emit(0, f"{apart}DEVICE {result} {name}({argument} x, {result} y) {{")
        self.emit(1, "uint32_t turns = 0;")
        for _ in range(self.rng.randrange(1, 4)):
            self.statement(1, 1)
        self.emit(1, "static_cast<void>(turns);")
        self.emit(1, f"return {self.expression(result, 3)};")
        self.emit(0, "}")
        self.functions.append((name, result, argument))

    def text(self) -> str:
        for _ in range(self.rng.randrange(3)):
            self.function()
        self.emit(0, "KERNEL(64) random_program(const uint32_t* in, uint64_t* out, uint32_t n) {")
        self.emit(1, "SHARED(uint32_t, tile, 64);")
        self.emit(1, "const uint32_t t = thread_x(), item = group_x() * 64 + t;")
        self.emit(1, "uint32_t turns = 0;")
        self.names = {"item": "uint32_t"}
        self.fixed = {"item"}
        for type_ in ("uint32_t", "uint64_t", "int32_t", "float", "double", "int64_t"):
            name = self.fresh("v")
            word = f"in[(item * 6 + {self.count % 6}) % n]"
            value = f"static_cast<double>(static_cast<int32_t>({word})) * 0x1p-20" if type_ in FLOATS else word
            if WIDTH.get(type_) == 64:
                value = f"static_cast<uint64_t>({word}) * 0x100000001b3ull"
            self.emit(1, f"{type_} {name} = static_cast<{type_}>({value});")
            self.names[name] = type_
        for _ in range(self.rng.randrange(5, 10)):
            if self.rng.random() < 0.2:
                self.exchange()
            else:
                self.statement(1, 2)
        self.emit(1, "uint64_t h = turns;")
        for name in self.names:
            self.emit(1, f"h = fold(h, bits({name}));")
        self.emit(1, "out[item] = h;")
        self.emit(0, "}")
        return PROLOGUE + "\n" + "\n".join(self.lines) + "\n"


def source(seed: int) -> str:
    return Program(seed).text()
