# find_package(MetalCandle) gives the targets
#
#   MetalCandle::static       libmetal_candle.a, with the system's libraries that it needs
#   MetalCandle::shared       libmetal_candle.so or .dylib
#   MetalCandle::MetalCandle  the shared one where BUILD_SHARED_LIBS is on, else the static one
#
# each with the directory of metal_candle.h and metal_candle.hpp. static and shared are also components,
# for who requires one of them. A static program is smaller by a third with
# target_link_options(... PRIVATE LINKER:--gc-sections), or LINKER:-dead_strip on Apple's systems.
#
# This file lies in PREFIX/share/cmake/MetalCandle, and finds the rest from there, so the prefix can move.

get_filename_component(_metal_candle_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." REALPATH)

if(NOT TARGET MetalCandle::static AND NOT TARGET MetalCandle::shared)
  foreach(_metal_candle_folder "lib/${CMAKE_LIBRARY_ARCHITECTURE}" lib lib64)
    foreach(_metal_candle_kind static shared)
      if(_metal_candle_kind STREQUAL static)
        set(_metal_candle_file libmetal_candle.a)
      elseif(APPLE)
        set(_metal_candle_file libmetal_candle.dylib)
      else()
        set(_metal_candle_file libmetal_candle.so)
      endif()
      set(_metal_candle_file "${_metal_candle_prefix}/${_metal_candle_folder}/${_metal_candle_file}")
      if(EXISTS "${_metal_candle_file}" AND NOT TARGET MetalCandle::${_metal_candle_kind})
        string(TOUPPER ${_metal_candle_kind} _metal_candle_type)
        add_library(MetalCandle::${_metal_candle_kind} ${_metal_candle_type} IMPORTED)
        set_target_properties(MetalCandle::${_metal_candle_kind} PROPERTIES
          IMPORTED_LOCATION "${_metal_candle_file}"
          INTERFACE_INCLUDE_DIRECTORIES "${_metal_candle_prefix}/include")
      endif()
    endforeach()
  endforeach()

  if(TARGET MetalCandle::static)
    set_target_properties(MetalCandle::static PROPERTIES IMPORTED_LINK_INTERFACE_LANGUAGES C)
    if(APPLE)
      set_target_properties(MetalCandle::static PROPERTIES INTERFACE_LINK_LIBRARIES
        "-framework Metal;-framework Foundation;-framework CoreGraphics;-framework Security;objc;iconv;m")
    else()
      set_target_properties(MetalCandle::static PROPERTIES INTERFACE_LINK_LIBRARIES
        "gcc_s;pthread;m;${CMAKE_DL_LIBS}")
    endif()
  endif()

  if(TARGET MetalCandle::shared AND (BUILD_SHARED_LIBS OR NOT TARGET MetalCandle::static))
    set(_metal_candle_kind shared)
  else()
    set(_metal_candle_kind static)
  endif()
  if(TARGET MetalCandle::${_metal_candle_kind})
    add_library(MetalCandle::MetalCandle INTERFACE IMPORTED)
    set_target_properties(MetalCandle::MetalCandle PROPERTIES
      INTERFACE_LINK_LIBRARIES MetalCandle::${_metal_candle_kind})
  endif()
endif()

set(MetalCandle_FOUND TRUE)
if(NOT TARGET MetalCandle::MetalCandle)
  set(MetalCandle_FOUND FALSE)
  set(MetalCandle_NOT_FOUND_MESSAGE "${_metal_candle_prefix} has no library of metal-candle")
endif()
foreach(_metal_candle_kind IN LISTS MetalCandle_FIND_COMPONENTS)
  set(MetalCandle_${_metal_candle_kind}_FOUND FALSE)
  if(TARGET MetalCandle::${_metal_candle_kind})
    set(MetalCandle_${_metal_candle_kind}_FOUND TRUE)
  elseif(MetalCandle_FIND_REQUIRED_${_metal_candle_kind})
    set(MetalCandle_FOUND FALSE)
    set(MetalCandle_NOT_FOUND_MESSAGE "${_metal_candle_prefix} has no ${_metal_candle_kind} library of metal-candle")
  endif()
endforeach()

unset(_metal_candle_prefix)
unset(_metal_candle_folder)
unset(_metal_candle_kind)
unset(_metal_candle_file)
unset(_metal_candle_type)
