// Boost.Asio compiled once (BOOST_ASIO_SEPARATE_COMPILATION), which keeps every other file quick.
#include <boost/asio/impl/src.hpp>
