#!/bin/sh
# Finds a Python that this package works with, checks that everything the set-up needs is there, and prints the
# interpreter's path; or says on stderr what is missing and what to do, and exits with 1.
#
#   tools/setup_python.sh [INTERPRETER]

set -u

fail() {
    printf '\nSet-up cannot go on: %s\n\n' "$1" >&2
    exit 1
}

case "$PWD" in
*:*) fail "the path of this folder ($PWD) contains a colon, which Python environments cannot have. Move the folder." ;;
esac

IFS=:
for prefix in ${AMENT_PREFIX_PATH:-}; do
    if [ -f "$prefix/share/rclpy/package.xml" ] && [ ! -f "$prefix/pyvenv.cfg" ]; then
        fail "a ROS 2 distribution is sourced ($prefix).
'make' is for machines without one and would mix its libraries with ROS 2 from PyPI. Build with 'colcon build' instead (docs/installation.md), or open a shell in which no
setup.bash was sourced."
    fi
done
unset IFS

supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
if [ $# -gt 0 ] && [ -n "$1" ]; then
    "$1" -c "$supported" 2>/dev/null ||
        fail "$1 is not a Python 3.10, 3.11, 3.12 or 3.13 that runs ($("$1" --version 2>&1 | head -n 1)). Name another one,
make PYTHON=/path/to/python3.12, and if .venv was made with a Python that is gone or too old, run 'make clean' first."
    python=$1
else
    python=
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c "$supported" 2>/dev/null; then
            python=$("$candidate" -c 'import sys; print(sys.executable)')
            break
        fi
    done
    [ -n "$python" ] ||
        fail "no Python 3.10, 3.11, 3.12 or 3.13 was found (python3 is: $(python3 --version 2>&1)). Install one (Debian,
Ubuntu: apt install python3 python3-venv python3-dev) or name it: make PYTHON=/path/to/python3.12"
fi

"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python cannot make virtual environments. Debian, Ubuntu: apt install python3-venv"

"$python" -c 'import os, sys, sysconfig
folders = sysconfig.get_paths()["include"], sysconfig.get_config_var("INCLUDEPY") or ""
sys.exit(not any(os.path.isfile(os.path.join(folder, "Python.h")) for folder in folders))' ||
    fail "the headers of $python are missing, and the ROS messages are compiled against them. Debian, Ubuntu:
apt install python3-dev"

for compiler in "${CC:-cc}" "${CXX:-c++}"; do
    command -v "${compiler%% *}" >/dev/null 2>&1 ||
        fail "no C and C++ compiler ($compiler) was found, and the ROS messages are compiled. Debian, Ubuntu: apt install g++"
done

machine=$("$python" -c 'import platform; print(platform.system(), platform.machine())')
[ "$machine" = "Linux x86_64" ] ||
    fail "ROS 2 from PyPI exists for Linux on x86_64 only, and this is $machine. Install a ROS 2 distribution and
build with 'colcon build' (docs/installation.md)."

printf '%s\n' "$python"
