// Fields may be added to the API; what is there stays as it is: compares the
// protos with the stored graft_v1.descriptors.textproto, which says how it is
// made.

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/text_format.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "graft/v1/adapter.pb.h"
#include "graft/v1/admin.pb.h"
#include "graft/v1/generation.pb.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::ServiceDescriptorProto;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

FileDescriptorSet Stored() {
  std::ifstream file(GRAFT_STORED_DESCRIPTORS);
  std::stringstream text;
  text << file.rdbuf();
  FileDescriptorSet set;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text.str(), &set));
  return set;
}

FileDescriptorSet Compiled() {
  FileDescriptorSet set;
  for (const auto* file :
       {v1::Adapter::descriptor()->file(), v1::ServerInfo::descriptor()->file(),
        v1::ImageChunk::descriptor()->file()}) {
    file->CopyTo(set.add_file());
  }
  return set;
}

template <typename Items>
const typename Items::value_type* FindByName(const Items& items,
                                             const std::string& name) {
  for (const auto& item : items) {
    if (item.name() == name) return &item;
  }
  return nullptr;
}

// Compares what was with what is, and writes down what broke.
class Comparison {
 public:
  void Files(const FileDescriptorSet& was, const FileDescriptorSet& is) {
    Each(was.file(), is.file(), "",
         [this](const FileDescriptorProto& a, const FileDescriptorProto& b,
                const std::string&) {
           Same(a.package(), b.package(), a.name() + " package");
           Each(a.message_type(), b.message_type(), a.package(), message_);
           Each(a.enum_type(), b.enum_type(), a.package(), enum_);
           Each(a.service(), b.service(), a.package(), service_);
         });
  }

  const std::vector<std::string>& broken() const { return broken_; }

 private:
  template <typename T>
  using Compare =
      std::function<void(const T& was, const T& is, const std::string& path)>;

  template <typename Items, typename Function>
  void Each(const Items& was, const Items& is, const std::string& parent,
            const Function& compare) {
    for (const auto& item : was) {
      const std::string path = parent + "." + item.name();
      const auto* const found = FindByName(is, item.name());
      if (found == nullptr) {
        broken_.push_back(path + " is gone");
      } else {
        compare(item, *found, path);
      }
    }
  }

  template <typename T>
  void Same(const T& was, const T& is, const std::string& what) {
    if (was != is) broken_.push_back(what + " changed");
  }

  const Compare<FieldDescriptorProto> field_ =
      [this](const FieldDescriptorProto& was, const FieldDescriptorProto& is,
             const std::string& path) {
        Same(was.number(), is.number(), path + " number");
        Same(was.type(), is.type(), path + " type");
        Same(was.type_name(), is.type_name(), path + " type name");
        Same(was.label(), is.label(), path + " label");
        Same(was.proto3_optional(), is.proto3_optional(), path + " presence");
        Same(was.has_oneof_index(), is.has_oneof_index(), path + " oneof");
      };
  const Compare<EnumDescriptorProto> enum_ =
      [this](const EnumDescriptorProto& was, const EnumDescriptorProto& is,
             const std::string& path) {
        Each(was.value(), is.value(), path,
             [this](const auto& a, const auto& b, const std::string& value) {
               Same(a.number(), b.number(), value + " number");
             });
      };
  const Compare<DescriptorProto> message_ = [this](const DescriptorProto& was,
                                                   const DescriptorProto& is,
                                                   const std::string& path) {
    Each(was.field(), is.field(), path, field_);
    Each(was.nested_type(), is.nested_type(), path, message_);
    Each(was.enum_type(), is.enum_type(), path, enum_);
  };
  const Compare<ServiceDescriptorProto> service_ =
      [this](const ServiceDescriptorProto& was,
             const ServiceDescriptorProto& is, const std::string& path) {
        Each(was.method(), is.method(), path,
             [this](const auto& a, const auto& b, const std::string& method) {
               Same(a.input_type(), b.input_type(), method + " request");
               Same(a.output_type(), b.output_type(), method + " response");
               Same(a.client_streaming(), b.client_streaming(),
                    method + " client streaming");
               Same(a.server_streaming(), b.server_streaming(),
                    method + " server streaming");
             });
      };

  std::vector<std::string> broken_;
};

std::vector<std::string> Broken(const FileDescriptorSet& was,
                                const FileDescriptorSet& is) {
  Comparison comparison;
  comparison.Files(was, is);
  return comparison.broken();
}

DescriptorProto& Message(FileDescriptorSet& set, const std::string& name) {
  for (FileDescriptorProto& file : *set.mutable_file()) {
    for (DescriptorProto& message : *file.mutable_message_type()) {
      if (message.name() == name) return message;
    }
  }
  ADD_FAILURE() << "no message " << name;
  return *set.add_file()->add_message_type();
}

TEST(ProtoCompatibilityTest, NothingThatClientsRelyOnHasChanged) {
  const FileDescriptorSet stored = Stored();
  ASSERT_EQ(stored.file_size(), 3);
  EXPECT_THAT(Broken(stored, Compiled()), IsEmpty());
}

// A field that was added later is as much relied on as the others.
TEST(ProtoCompatibilityTest, EverythingIsStored) {
  EXPECT_THAT(Broken(Compiled(), Stored()), IsEmpty())
      << "make graft_v1.descriptors.textproto anew";
}

// The numbers that the project fixed before there was a server.
TEST(ProtoCompatibilityTest, FixedNumbersAreAsAgreed) {
  const auto number = [](const google::protobuf::Descriptor* message,
                         const char* field) {
    const auto* const found = message->FindFieldByName(field);
    return found == nullptr ? 0 : found->number();
  };
  const auto* const request = v1::GenerateImageRequest::descriptor();
  int expected = 1;
  for (const char* const field :
       {"prompt", "negative_prompt", "width", "height", "steps",
        "guidance_scale", "sampler", "seed", "count", "adapters", "request_id",
        "preview_interval"}) {
    EXPECT_EQ(number(request, field), expected++) << field;
  }
  EXPECT_EQ(number(v1::AdapterRef::descriptor(), "name"), 1);
  EXPECT_EQ(number(v1::AdapterRef::descriptor(), "weight"), 2);
  EXPECT_EQ(number(v1::AdapterRef::descriptor(), "text_encoder_weight"), 3);
  EXPECT_EQ(number(v1::AdapterRef::descriptor(), "sha256"), 4);
  EXPECT_EQ(number(v1::ImageChunk::descriptor(), "image_index"), 1);
  EXPECT_EQ(number(v1::ImageChunk::descriptor(), "data"), 2);
  EXPECT_EQ(number(v1::ImageChunk::descriptor(), "last"), 3);
  const auto* const response = v1::GenerateImageResponse::descriptor();
  EXPECT_EQ(number(response, "request_id"), 1);
  EXPECT_EQ(number(response, "queued"), 2);
  EXPECT_EQ(number(response, "started"), 3);
  EXPECT_EQ(number(response, "progress"), 4);
  EXPECT_EQ(number(response, "preview"), 5);
  EXPECT_EQ(number(response, "image"), 6);
  EXPECT_EQ(number(response, "finished"), 7);
}

// The comparison itself bites.
TEST(ProtoCompatibilityTest, SeesWhatBreaksClients) {
  FileDescriptorSet is = Compiled();
  Message(is, "Queued").mutable_field(0)->set_number(99);
  EXPECT_THAT(Broken(Compiled(), is),
              Contains(HasSubstr("Queued.position number changed")));
  is = Compiled();
  Message(is, "Queued").clear_field();
  EXPECT_THAT(Broken(Compiled(), is),
              Contains(HasSubstr("Queued.position is gone")));
  is = Compiled();
  Message(is, "ImageChunk")
      .mutable_field(2)
      ->set_type(FieldDescriptorProto::TYPE_STRING);
  EXPECT_THAT(Broken(Compiled(), is),
              Contains(HasSubstr("ImageChunk.last type changed")));
  is = Compiled();
  is.mutable_file(0)->mutable_service(0)->mutable_method(0)->set_name("Other");
  EXPECT_THAT(Broken(Compiled(), is), Contains(HasSubstr("is gone")));
}

}  // namespace
}  // namespace graft
