# Passed as CMAKE_PROJECT_INCLUDE when building against the ROS 2 wheels.
#
# rosidl's exported targets name the include folders of Python and numpy on the machine that built them. CMake refuses
# imported targets whose folders do not exist (the wheels' begin with /opt/python/), and exported ones whose folders lie
# in the source tree (where a .venv usually is). Nobody links against these targets for their Python headers, so both
# are dropped once everything has been found.
function(wildhands_drop_foreign_include_folders)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  get_property(built DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS imported built)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      list(FILTER folders EXCLUDE REGEX "^/opt/python/|/site-packages/numpy/")
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL wildhands_drop_foreign_include_folders)
