# agro_package(NAME [THREADED] SOURCES ... [TESTS ...] [FUZZERS ...] [DEPS ...] [LIBS ...] [TEST_DEPS ...])
#
# One call a package: a static library agro_NAME, a gtest program NAME_test registered with ctest,
# and a libFuzzer program per FUZZERS file when AGRO_FUZZ is on. DEPS are packages, LIBS imported
# targets. THREADED: more threads than the loop's run in it, so its tests run under ThreadSanitizer too.
# An arrow that points up in the order below is refused: the tree is the architecture.

set(AGRO_PACKAGE_ORDER
    base sim core models ring storage metadata blockset distributor gc block node internal csi cmd integration)

function(agro_rank name out)
  string(REGEX REPLACE "_.*" "" head "${name}")
  list(FIND AGRO_PACKAGE_ORDER "${head}" rank)
  if(rank EQUAL -1)
    message(FATAL_ERROR "package '${name}' has no place in AGRO_PACKAGE_ORDER (cmake/agro_package.cmake)")
  endif()
  # ring, storage, metadata and blockset are siblings: they may not see each other, except that a
  # blockset sees the store's block types.
  set(${out} ${rank} PARENT_SCOPE)
endfunction()

set(AGRO_FORBIDDEN_ARROWS "storage>ring;metadata>ring;metadata>storage;blockset>ring;blockset>metadata;storage>sim")

# agro_fuzzer(SOURCE LIBRARIES...): defines LLVMFuzzerTestOneInput. With AGRO_FUZZ it is a libFuzzer program; without,
# the tests replay its corpus through tools/fuzz_replay.cpp, so that every build runs it.
function(agro_fuzzer source)
  get_filename_component(fuzzer ${source} NAME_WE)
  set(corpus ${PROJECT_SOURCE_DIR}/fuzz/corpus/${fuzzer})
  if(AGRO_FUZZ OR AGRO_TESTS)
    add_executable(${fuzzer} ${source})
    target_link_libraries(${fuzzer} PRIVATE ${ARGN})
    set_target_properties(${fuzzer} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fuzz)
    add_dependencies(fuzzers ${fuzzer})
  endif()
  if(AGRO_FUZZ)
    target_link_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
  elseif(AGRO_TESTS)
    target_sources(${fuzzer} PRIVATE ${PROJECT_SOURCE_DIR}/tools/fuzz_replay.cpp)
    add_test(NAME fuzz.${fuzzer} COMMAND ${fuzzer} ${corpus})
  endif()
endfunction()

function(agro_package)
  cmake_parse_arguments(P "THREADED" "NAME" "SOURCES;TESTS;FUZZERS;BENCHES;DEPS;LIBS;TEST_DEPS" ${ARGN})
  agro_rank(${P_NAME} rank)
  string(REGEX REPLACE "_.*" "" head "${P_NAME}")
  foreach(dep ${P_DEPS})
    agro_rank(${dep} dep_rank)
    string(REGEX REPLACE "_.*" "" dep_head "${dep}")
    if(dep_rank GREATER rank OR "${head}>${dep_head}" IN_LIST AGRO_FORBIDDEN_ARROWS)
      message(FATAL_ERROR "package '${P_NAME}' may not depend on '${dep}' (docs/architecture.md)")
    endif()
  endforeach()

  set(target agro_${P_NAME})
  list(TRANSFORM P_DEPS PREPEND agro_ OUTPUT_VARIABLE dep_targets)
  list(TRANSFORM P_TEST_DEPS PREPEND agro_ OUTPUT_VARIABLE test_dep_targets)
  add_library(${target} STATIC ${P_SOURCES})
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(${target} PUBLIC agro_options ${dep_targets} ${P_LIBS})

  if(P_TESTS AND AGRO_TESTS)
    add_executable(${P_NAME}_test ${P_TESTS})
    target_link_libraries(${P_NAME}_test PRIVATE ${target} ${test_dep_targets} GTest::gtest GTest::gmock GTest::gtest_main)
    set_target_properties(${P_NAME}_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    add_dependencies(unit_tests ${P_NAME}_test)
    if(P_THREADED)
      add_dependencies(threaded_tests ${P_NAME}_test)
    endif()
    gtest_discover_tests(${P_NAME}_test DISCOVERY_MODE PRE_TEST TEST_PREFIX ${P_NAME}.
                         PROPERTIES TIMEOUT ${AGRO_TEST_TIMEOUT_S})
  endif()
  foreach(source ${P_FUZZERS})
    agro_fuzzer(${source} ${target} ${test_dep_targets})
  endforeach()
  if(P_BENCHES AND AGRO_BENCH)
    add_executable(${P_NAME}_bench ${P_BENCHES})
    target_link_libraries(${P_NAME}_bench PRIVATE ${target} ${test_dep_targets} benchmark::benchmark benchmark::benchmark_main)
    set_target_properties(${P_NAME}_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
  endif()
endfunction()
