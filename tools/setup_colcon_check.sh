#!/bin/sh
# Builds this package the way a robot does, with colcon, against the ROS 2 wheels in .venv: plainly, with
# --symlink-install and merged, and looks at what came out. colcon itself goes into a throw-away environment, since it
# needs an older setuptools than PyTorch. For developers; takes about two minutes.
#
#   tools/setup_colcon_check.sh [SCRATCH_FOLDER]

set -eu
package=$(cd "$(dirname "$0")/.." && pwd)
scratch=${1:-$(mktemp -d)}
prefix=$package/.venv
[ -f "$prefix/.done/messages" ] || { echo "run 'make setup' first" >&2; exit 1; }
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH || true

mkdir -p "$scratch"
python3 -m venv "$scratch/colcon"
"$scratch/colcon/bin/pip" install --quiet --disable-pip-version-check colcon-core colcon-cmake colcon-ros \
    colcon-recursive-crawl colcon-library-path colcon-package-selection colcon-test-result colcon-bash colcon-output

# the repository's files in a workspace, without .venv and build output
mkdir -p "$scratch/workspace/src/wildhands_ros"
(cd "$package" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -c --ignore-failed-read) |
    tar -x -C "$scratch/workspace/src/wildhands_ros"

cd "$scratch/workspace"
export AMENT_PREFIX_PATH="$prefix" CMAKE_PREFIX_PATH="$prefix" PATH="$prefix/bin:$PATH"
for layout in "" --symlink-install --merge-install; do
    echo "== colcon build $layout"
    rm -rf build install log
    "$scratch/colcon/bin/colcon" build $layout --event-handlers console_stderr+ --cmake-args -G Ninja \
        -DCMAKE_PROJECT_INCLUDE="$package/cmake/wheels.cmake" -DPython3_EXECUTABLE="$prefix/bin/python"
    (
        set +u
        COLCON_CURRENT_PREFIX=$PWD/install . "$PWD/install/local_setup.sh"
        cd /
        # the wheels set LD_LIBRARY_PATH by running Python again; the source tree in .venv must not help out
        "$prefix/bin/python" - "$scratch/workspace/install" <<'PYTHON'
import sys
from pathlib import Path

install = Path(sys.argv[1])
from ament_index_python import get_package_prefix, get_package_share_directory
from wildhands_ros.msg import HandPoseArray
import wildhands_ros
import wildhands_ros.camera

assert HandPoseArray().hands == []
assert Path(wildhands_ros.__file__).is_relative_to(install), wildhands_ros.__file__
assert Path(sys.modules["wildhands_ros.msg"].__file__).is_relative_to(install)
prefix = Path(get_package_prefix("wildhands_ros"))
for name in ("wildhands", "wildhands_node"):
    assert (prefix / "lib/wildhands_ros" / name).stat().st_mode & 0o111, name
print("found", get_package_share_directory("wildhands_ros"), *sorted(p.name for p in (prefix / "share/wildhands_ros").iterdir()))
PYTHON
    )
    "$prefix/bin/python" -c 'import sys; from pathlib import Path
found = [str(p) for p in Path("install").rglob("tf2_msgs*")]
sys.exit(f"tf2_msgs must not be built by colcon: {found}" if found else 0)'
done
echo "== colcon builds in all three layouts"
