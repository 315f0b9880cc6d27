# What `make install` puts where, and the Debian packages of `make deb`: agro (the peer) and agro-client (all that uses a
# cluster). Manual pages and completions come from the programs themselves.
include(GNUInstallDirs)
set(server_programs agro ringtool)
set(client_programs agroblock agrocsi agroctl)
set(generated ${PROJECT_BINARY_DIR}/documentation)
file(MAKE_DIRECTORY ${generated})
set(documents ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/docs/architecture.md ${PROJECT_SOURCE_DIR}/docs/cluster.md
    ${PROJECT_SOURCE_DIR}/docs/http.md ${PROJECT_SOURCE_DIR}/docs/placement.md ${PROJECT_SOURCE_DIR}/docs/admin-guide.md
    ${PROJECT_SOURCE_DIR}/docs/failure-guide.md ${PROJECT_SOURCE_DIR}/docs/getting-started.md
    ${PROJECT_SOURCE_DIR}/docs/glossary.md ${PROJECT_SOURCE_DIR}/docs/monitoring.md)
set(client_documents ${PROJECT_SOURCE_DIR}/docs/devices.md ${PROJECT_SOURCE_DIR}/docs/snapshotting.md)

foreach(program ${server_programs} ${client_programs})
  if(program IN_LIST server_programs)
    set(component agro)
  else()
    set(component agro-client)
  endif()
  set(made ${generated}/${program}.8.gz ${generated}/${program}.bash ${generated}/_${program} ${generated}/${program}.fish)
  add_custom_command(OUTPUT ${made}
    COMMAND sh -c "$<TARGET_FILE:${program}> --print-man-page | gzip -9n > ${program}.8.gz"
    COMMAND ${program} --print-completion bash > ${program}.bash
    COMMAND ${program} --print-completion zsh > _${program}
    COMMAND ${program} --print-completion fish > ${program}.fish
    DEPENDS ${program} WORKING_DIRECTORY ${generated} VERBATIM)
  add_custom_target(documentation_${program} ALL DEPENDS ${made})
  install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT ${component})
  install(FILES ${generated}/${program}.8.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man8 COMPONENT ${component})
  install(FILES ${generated}/${program}.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
          RENAME ${program} COMPONENT ${component})
  install(FILES ${generated}/_${program} DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions COMPONENT ${component})
  install(FILES ${generated}/${program}.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d
          COMPONENT ${component})
endforeach()

set(systemd ${PROJECT_SOURCE_DIR}/contrib/systemd)
install(FILES ${systemd}/agro.service DESTINATION lib/systemd/system COMPONENT agro)
install(FILES ${systemd}/agroblock.service ${systemd}/agroblock@.service DESTINATION lib/systemd/system COMPONENT agro-client)
install(FILES ${systemd}/agro.default DESTINATION /etc/default RENAME agro COMPONENT agro)
install(FILES ${systemd}/agroblock.default DESTINATION /etc/default RENAME agroblock COMPONENT agro-client)

add_custom_command(OUTPUT ${generated}/changelog.gz
  COMMAND sh -c "gzip -9nc ${PROJECT_SOURCE_DIR}/contrib/debian/changelog > ${generated}/changelog.gz"
  DEPENDS ${PROJECT_SOURCE_DIR}/contrib/debian/changelog VERBATIM)
add_custom_target(documentation_changelog ALL DEPENDS ${generated}/changelog.gz)
foreach(component agro agro-client)
  install(FILES ${PROJECT_SOURCE_DIR}/contrib/debian/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${component}
          COMPONENT ${component})
  install(FILES ${generated}/changelog.gz DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${component} COMPONENT ${component})
endforeach()
install(FILES ${documents} DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/agro COMPONENT agro)
install(FILES ${client_documents} DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/agro-client COMPONENT agro-client)

# ---- Debian packages
set(debian ${PROJECT_SOURCE_DIR}/contrib/debian)
foreach(package agro agro-client)
  file(MAKE_DIRECTORY ${generated}/${package})
  foreach(script postinst prerm postrm)
    file(COPY_FILE ${debian}/${package}.${script} ${generated}/${package}/${script} ONLY_IF_DIFFERENT)
    file(CHMOD ${generated}/${package}/${script} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
         WORLD_READ WORLD_EXECUTE)
  endforeach()
  file(COPY_FILE ${debian}/${package}.conffiles ${generated}/${package}/conffiles ONLY_IF_DIFFERENT)
endforeach()
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME agro)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "The agro authors <agro@agro.invalid>")
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL agro agro-client)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_AGRO_PACKAGE_NAME agro)
set(CPACK_DEBIAN_AGRO_PACKAGE_DEPENDS "agro-client (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_AGRO_PACKAGE_CONTROL_EXTRA
    "${generated}/agro/postinst;${generated}/agro/prerm;${generated}/agro/postrm;${generated}/agro/conffiles")
set(CPACK_COMPONENT_AGRO_DESCRIPTION "distributed block storage: the peer
A peer stores blocks of replicated volumes on a disk of this machine, for a
cluster whose metadata are in etcd or SQLite. Also 'agro standalone', a whole
cluster in one process, and ringtool, which compares placements.")
set(CPACK_DEBIAN_AGRO-CLIENT_PACKAGE_NAME agro-client)
set(CPACK_DEBIAN_AGRO-CLIENT_PACKAGE_SUGGESTS "e2fsprogs, nbd-client, qemu-utils, xfsprogs")
set(CPACK_DEBIAN_AGRO-CLIENT_PACKAGE_CONTROL_EXTRA
    "${generated}/agro-client/postinst;${generated}/agro-client/prerm;${generated}/agro-client/postrm;${generated}/agro-client/conffiles")
set(CPACK_COMPONENT_AGRO-CLIENT_DESCRIPTION "distributed block storage: volumes and administration
agroblock serves the volumes of an agro cluster over NBD and ATA over
Ethernet, or attaches them to this machine's kernel; agroctl manages the
cluster and its volumes; agrocsi gives volumes to Kubernetes (CSI).")
include(CPack)
