# LibTorch as two imported targets, without Torch's own CMake package: that one
# demands the CUDA toolkit of the build it came from even where only the CPU part
# is used, and takes over protobuf's targets. What graftd links is libtorch_cpu
# and libc10; libtorch_cuda is opened at run time when a CUDA device is asked for,
# so that one binary serves machines with and without a GPU.
#
# Looked for in CMAKE_PREFIX_PATH (a LibTorch archive, or the torch folder of a
# Python environment: python -c "import torch; print(torch.utils.cmake_prefix_path)"),
# then where deploy/install.sh puts it.
file(GLOB GRAFT_TORCH_HINTS
  ${PROJECT_SOURCE_DIR}/build/deps/venv/lib/python3*/site-packages/torch)
set(GRAFT_TORCH_PREFIXES)
foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
  # torch.utils.cmake_prefix_path is <torch>/share/cmake.
  cmake_path(NORMAL_PATH prefix)
  string(REGEX REPLACE "/share/cmake/?$" "" prefix "${prefix}")
  list(APPEND GRAFT_TORCH_PREFIXES ${prefix} ${prefix}/torch)
endforeach()
find_path(GRAFT_TORCH_ROOT include/ATen/ATen.h
  PATHS ${GRAFT_TORCH_PREFIXES} ${GRAFT_TORCH_HINTS} NO_DEFAULT_PATH)
if(NOT GRAFT_TORCH_ROOT)
  message(FATAL_ERROR
    "LibTorch not found. Run deploy/install.sh, or add its folder to CMAKE_PREFIX_PATH.")
endif()
message(STATUS "LibTorch: ${GRAFT_TORCH_ROOT}")

# The PyPI build of libtorch_cpu needs libcudart and libcupti even without a GPU;
# pip lays them beside torch.
file(GLOB GRAFT_TORCH_NVIDIA_LIBS ${GRAFT_TORCH_ROOT}/../nvidia/*/lib)
set(GRAFT_TORCH_LIBRARY_DIRS ${GRAFT_TORCH_ROOT}/lib ${GRAFT_TORCH_NVIDIA_LIBS})

foreach(lib IN ITEMS c10 torch_cpu)
  add_library(graft_${lib} SHARED IMPORTED)
  set_target_properties(graft_${lib} PROPERTIES
    IMPORTED_LOCATION ${GRAFT_TORCH_ROOT}/lib/lib${lib}.so)
endforeach()
add_library(graft_torch INTERFACE)
target_link_libraries(graft_torch INTERFACE graft_torch_cpu graft_c10)
target_include_directories(graft_torch SYSTEM INTERFACE
  ${GRAFT_TORCH_ROOT}/include ${GRAFT_TORCH_ROOT}/include/torch/csrc/api/include)
foreach(dir IN LISTS GRAFT_TORCH_LIBRARY_DIRS)
  target_link_options(graft_torch INTERFACE -Wl,-rpath-link,${dir})
endforeach()
# And where libgraft_cuda.so, which the engine opens, is built.
set(CMAKE_BUILD_RPATH ${GRAFT_TORCH_LIBRARY_DIRS} ${CMAKE_LIBRARY_OUTPUT_DIRECTORY})

# What is installed finds LibTorch where it was built with, or, where
# GRAFT_BUNDLE_LIBTORCH copies its CPU part along, beside itself.
option(GRAFT_BUNDLE_LIBTORCH
  "cmake --install also copies LibTorch's CPU libraries (as the container does)" OFF)
set(GRAFT_BUNDLE_DIR ${CMAKE_INSTALL_LIBDIR}/graft)
file(RELATIVE_PATH GRAFT_BUNDLE_FROM_BIN
  /prefix/${CMAKE_INSTALL_BINDIR} /prefix/${GRAFT_BUNDLE_DIR})
set(CMAKE_INSTALL_RPATH $ORIGIN/${GRAFT_BUNDLE_FROM_BIN})
if(GRAFT_BUNDLE_LIBTORCH)
  file(GLOB GRAFT_BUNDLED_LIBS
    ${GRAFT_TORCH_ROOT}/lib/libc10.so ${GRAFT_TORCH_ROOT}/lib/libtorch_cpu.so
    ${GRAFT_TORCH_ROOT}/lib/libgomp*.so*
    ${GRAFT_TORCH_ROOT}/../nvidia/*/lib/libcudart.so.*
    ${GRAFT_TORCH_ROOT}/../nvidia/*/lib/libcupti.so.*)
  install(FILES ${GRAFT_BUNDLED_LIBS} DESTINATION ${GRAFT_BUNDLE_DIR})
else()
  list(APPEND CMAKE_INSTALL_RPATH ${GRAFT_TORCH_LIBRARY_DIRS})
endif()
