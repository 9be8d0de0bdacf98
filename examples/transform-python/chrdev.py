"""Carries one patch: the one of ../transform-chrdev, by which the kernel remembers the last minor number of each region of character devices."""

from ksplice.plugin.v1 import transform_pb2 as pb
from ksplice_plugin import Diagnostic, Plugin

ITEM = "layout:fs/char_dev.c:char_device_struct"  # what `ksplice create --report` calls the change


class Chrdev(Plugin):
    """Sets last_minor in every region that was registered before the update."""

    kind = "transform"
    name = "chrdev-python"
    version = "1.0.0"
    description = "Fills in char_device_struct.last_minor."

    def Plan(self, request, context):
        """Is asked when the update is made. The new member lies where the structure had a gap, so that regions that exist have room for it."""
        response = pb.PlanResponse()
        for item in request.items:
            if item.id != ITEM:
                continue
            if [m.name for m in item.members] != ["last_minor"]:
                response.declined[item.id] = "only last_minor can be filled in"
                continue
            response.claimed.append(item.id)
            response.because[item.id] = "every region that exists gets its last minor number"
            response.transfers[item.id].globals.append("chrdevs")
            response.transfers[item.id].types.append("struct char_device_struct")
        return response

    def Transfer(self, messages, context):
        """Is asked when the update is applied, and when it is undone: for each region reachable from chrdevs, set last_minor."""
        request = next(messages).request
        yield pb.TransferEvent(walk=pb.Walk(
            steps=[pb.Step(kind="each"), pb.Step(kind="chain", link="next")],  # a hash table: an array of pointers to chains
            read=["baseminor", "minorct"], **{"global": "chrdevs"}))
        regions = 0
        for answer in messages:
            if answer.objects.error:
                raise Diagnostic("user", "walk: " + answer.objects.error)
            changes = pb.Changes()
            for region in answer.objects.objects:
                base, count = (v.number for v in region.values)
                last = 0 if request.undo else base + count - 1  # undone: the gap, as it was
                changes.sets.add(object=pb.Handle(address=region.address, type=region.type), path="last_minor", number=last)
            regions += len(changes.sets)
            yield pb.TransferEvent(changes=changes)
            if answer.objects.last:
                break
        yield pb.TransferEvent(result=pb.TransferResult(note=f"{regions} regions"))
